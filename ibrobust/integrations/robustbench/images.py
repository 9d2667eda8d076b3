"""The images for RobustBench's benchmark, and their sources."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ibrobust.card_results import CIFAR10_TEST
from ibrobust.data import Dataset, load_dataset, to_unit_range
from ibrobust.data.names import NAMED_DATASETS
from ibrobust.errors import IbrobustError
from ibrobust.home import data_dir as default_data_dir
from ibrobust.integrations.robustbench.environment import imported_quietly
from ibrobust.registry import ModelCard

CIFAR10_FOLDER = "cifar-10-batches-py"  # torchvision's, and so RobustBench's
HALVES = ("test", "val")  # of an image folder
DOWNLOADED = tuple(name for name in NAMED_DATASETS if name != "digits")  # which come with scikit-learn
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
        fingerprint: of the data set; None for CIFAR-10's own files, as RobustBench reads them.
        are_first: whether they are the first of several, and not evenly spaced.
    """

    source: str
    class_names: tuple[str, ...]
    images: Tensor
    labels: Tensor
    fingerprint: str | None = None
    are_first: bool = False


def benchmark_images(card: ModelCard | None, folder: Path | None, count: int | None) -> BenchmarkImages:
    """Return the test images for the benchmark of a model.

    Args:
        card: of a registered model.
        folder: in RobustBench's layout, an image folder, or where the card's own data are downloaded to; by default the
            card's own data, recognised by their fingerprint.
        count: number of images: of CIFAR-10 and CIFAR-100 the first, as RobustBench takes them, else evenly spaced.

    Raises:
        IbrobustError: they are missing, too few, other ones than the card's, or not of 10 or 100 classes.
    """
    if folder is not None and not (folder / CIFAR10_FOLDER).is_dir() and any((folder / n).is_dir() for n in HALVES):
        images = _from_dataset(load_dataset(str(folder.absolute())), count)  # its name alone may be that of a data set
    elif card is None or (folder is not None and (folder / CIFAR10_FOLDER).is_dir()):
        images = _from_cifar10(folder if folder is not None else default_data_dir(), count)
    else:
        images = _own_images(card, folder, count)
    if count is not None and count > len(images.labels):
        raise IbrobustError(
            f"{count} images were requested, but {images.source} has {len(images.labels)}: give `n_examples`, at most "
            f"{len(images.labels)}."
        )
    if len(images.class_names) not in (10, 100):
        raise IbrobustError(
            f"{images.source} has {len(images.class_names)} classes, but this command supports 10 or "
            "100: use ibrobust attack."
        )
    return images


def _own_images(card: ModelCard, folder: Path | None, count: int | None) -> BenchmarkImages:
    """Return the images that a model was trained on, from where its card says, or downloaded to `folder`."""
    spec = card.images
    remedy = (
        f"give a folder that holds {CIFAR10_FOLDER}, or an image folder with train/<class>/* and test/<class>/*, as"
    )
    if folder is not None and spec not in DOWNLOADED:
        raise IbrobustError(f"{str(folder)!r} holds no images: {remedy} `data_dir`.")
    try:
        dataset = load_dataset(spec, data_dir=folder)
    except IbrobustError as error:
        raise IbrobustError(f"{str(error).rpartition(': ')[0]}: {remedy} `data_dir`.") from error
    if dataset.fingerprint != card.dataset.fingerprint:
        raise IbrobustError(
            f"The images of {spec!r} are not those that {card.name!r} was trained on: {remedy} `data_dir`."
        )
    return _from_dataset(dataset, count, first=spec in ("cifar10", "cifar100"))


def _from_dataset(dataset: Dataset, count: int | None, *, first: bool = False) -> BenchmarkImages:
    test = dataset.test.subset(None if first else count)
    images, labels = (values[: count if first else None] for values in (test.images, test.labels))
    are_first = first and len(images) < len(dataset.test)
    return BenchmarkImages(
        dataset.name, dataset.class_names, to_unit_range(images), labels, dataset.fingerprint, are_first
    )


def _from_cifar10(folder: Path, count: int | None) -> BenchmarkImages:
    with imported_quietly():
        import robustbench.data  # works once `environment.adapt_robustbench` has been called
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            images, labels = robustbench.data.load_cifar10(count, str(folder))
    except (OSError, RuntimeError) as error:
        raise IbrobustError(
            f"CIFAR-10 is not in {str(folder)!r} and could not be downloaded there ({error}): give a folder that "
            f"holds {CIFAR10_FOLDER}, or an image folder with train/<class>/* and test/<class>/*, as `data_dir`."
        ) from error
    are_first = count is not None and count < CIFAR10_TEST
    return BenchmarkImages("cifar10", CIFAR10_CLASSES, images, labels, are_first=are_first)
