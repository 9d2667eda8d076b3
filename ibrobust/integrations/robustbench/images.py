"""The images for RobustBench's benchmark, and their sources."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ibrobust.data import load_dataset, to_unit_range
from ibrobust.data.names import NAMED_DATASETS
from ibrobust.errors import IbrobustError
from ibrobust.home import data_dir as default_data_dir
from ibrobust.home import expanded
from ibrobust.integrations.robustbench.environment import imported_quietly
from ibrobust.registry import ModelCard

CIFAR10_FOLDER = "cifar-10-batches-py"  # torchvision's, and so RobustBench's
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclass(frozen=True)
class BenchmarkImages:
    """Test images for RobustBench.

    Attributes:
        source: name of the data set.
        class_names: of the labels.
        images: (N, 3, H, W) float32 in [0, 1].
        labels: (N,).
    """

    source: str
    class_names: tuple[str, ...]
    images: Tensor
    labels: Tensor


def benchmark_images(card: ModelCard | None, folder: Path | None, count: int | None) -> BenchmarkImages:
    """Return the test images for the benchmark of a model.

    Args:
        card: of a registered model.
        folder: in RobustBench's layout, or an image folder; by default the card's own data.
        count: number of images; the first of CIFAR-10's own files, as RobustBench takes them, else evenly spaced ones.

    Raises:
        IbrobustError: they are missing, too few, or not of 10 or 100 classes.
    """
    own = _own_dataset(card)
    if folder is not None and (folder / "test").is_dir() and not (folder / CIFAR10_FOLDER).is_dir():
        images = _from_dataset(str(folder), count)
    elif own is not None and (folder is None or not (folder / CIFAR10_FOLDER).is_dir()):
        try:
            images = _from_dataset(own, count, data_dir=folder)
        except IbrobustError as error:
            problem = str(error).rpartition(": ")[0]
            raise IbrobustError(
                f"{problem}: give a folder that holds {CIFAR10_FOLDER}, or an image folder with train/<class>/* and "
                "test/<class>/*, as `data_dir`."
            ) from error
    elif folder is None and card is not None and card.dataset.name != "cifar10":
        raise IbrobustError(
            f"The model {card.name!r} was trained on {card.dataset.name!r}: give that image folder as `data_dir`."
        )
    else:
        images = _from_cifar10(folder if folder is not None else default_data_dir(), count)
    if count is not None and count > len(images.labels):
        raise IbrobustError(
            f"{count} images were requested, but {images.source} has {len(images.labels)}: give `n_examples`, at most "
            f"{len(images.labels)}."
        )
    if len(images.class_names) not in (10, 100):
        raise IbrobustError(
            f"{images.source} has {len(images.class_names)} classes: RobustBench attacks data sets of 10 or 100 "
            "classes; for others use ibrobust attack."
        )
    return images


def _own_dataset(card: ModelCard | None) -> str | None:
    """Return the data set's name or path in a card; None for CIFAR-10, which RobustBench reads, or if missing."""
    if card is None:
        return None
    if card.recipe is not None and card.recipe.dataset not in NAMED_DATASETS:
        path = expanded(card.recipe.dataset)
        if (path / "test").is_dir():
            return str(path)
    if card.recipe is None and card.dataset.source is not None:
        return card.dataset.source
    return card.dataset.name if card.dataset.name in NAMED_DATASETS and card.dataset.name != "cifar10" else None


def _from_dataset(spec: str, count: int | None, *, data_dir: Path | None = None) -> BenchmarkImages:
    dataset = load_dataset(spec, data_dir=data_dir)
    test = dataset.test.subset(count)
    return BenchmarkImages(dataset.name, dataset.class_names, to_unit_range(test.images), test.labels)


def _from_cifar10(folder: Path, count: int | None) -> BenchmarkImages:
    with imported_quietly():
        import robustbench.data  # works once `environment.adapt_robustbench` has been called
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            images, labels = robustbench.data.load_cifar10(count, str(folder))
    except (OSError, RuntimeError) as error:
        raise IbrobustError(
            f"CIFAR-10 is not in {str(folder)!r} and could not be downloaded there ({error}): give a folder that "
            f"holds {CIFAR10_FOLDER}, or an image folder with train/<class>/* and test/<class>/*; ibrobust attack "
            "--dataset digits needs no network."
        ) from error
    return BenchmarkImages("cifar10", CIFAR10_CLASSES, images, labels)
