"""The images for RobustBench's benchmark, and their sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ibrobust.data import Dataset, load_dataset, to_unit_range
from ibrobust.data.image_folder import TEST_FOLDERS, TRAIN_FOLDERS
from ibrobust.data.names import NAMED_DATASETS, read_name
from ibrobust.errors import IbrobustError
from ibrobust.registry import ModelCard

# RobustBench's data sets by number of classes, and their folders, which are torchvision's.
CIFAR = {10: "cifar10", 100: "cifar100"}
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
# Of these RobustBench takes the first images.
FIRST = (*FOLDERS, "torchvision:CIFAR10", "torchvision:CIFAR100")
DOWNLOADED = tuple(name for name in NAMED_DATASETS if name != "digits")  # which come with scikit-learn
# What these leave in the folder that they are downloaded to, also if a download was interrupted.
LEFT_BY_DOWNLOADS = {
    *FOLDERS.values(),
    "cifar-10-python.tar.gz",
    "cifar-100-python.tar.gz",
    "cifar10-jpeg",
    "decoded",
    "train_32x32.mat",
    "test_32x32.mat",
    "MNIST",
}
REMEDY = (
    f"give a folder that holds {' or '.join(FOLDERS.values())}, or an image folder with train/<class>/* and "
    "test/<class>/*, as `data_dir`"
)


@dataclass(frozen=True)
class BenchmarkImages:
    """Test images for RobustBench.

    Attributes:
        source: name of the data set.
        class_names: of the labels.
        images: (N, 3, H, W) float32 in [0, 1].
        labels: (N,).
        fingerprint: of the data set.
        are_first: whether they are the first of several, and not evenly spaced.
    """

    source: str
    class_names: tuple[str, ...]
    images: Tensor
    labels: Tensor
    fingerprint: str
    are_first: bool


def benchmark_images(
    card: ModelCard | None, folder: Path | None, count: int | None, num_classes: Callable[[], int]
) -> BenchmarkImages:
    """Return the test images for the benchmark of a model.

    Args:
        card: of a registered model.
        folder: in RobustBench's layout, an image folder, or where the images are downloaded to; by default the card's
            own data, recognised by their fingerprint, or CIFAR-10 or CIFAR-100.
        count: number of images: of CIFAR-10 and CIFAR-100 the first, as RobustBench takes them, else evenly spaced.
        num_classes: gives the number of classes of a model without a card. It is only called to choose between CIFAR-10
            and CIFAR-100.

    Raises:
        IbrobustError: they are missing, too few, other ones than the card's, or not of 10 or 100 classes.
    """
    if folder is not None and _is_image_folder(folder):
        images = _from_dataset(load_dataset(str(folder.absolute())), count)  # its name alone may be that of a data set
    else:
        classes = num_classes() if card is None else len(card.dataset.class_names)
        name = CIFAR.get(classes)
        if card is not None and (folder is None or name is None or not (folder / FOLDERS[name]).is_dir()):
            images = _own_images(card, folder, count)
        elif name is None:
            raise IbrobustError(
                f"The model has {classes} classes, but the benchmark supports 10 or 100: use ibrobust attack."
            )
        else:
            images = _downloaded(name, folder, count)
    if count is not None and count > len(images.labels):
        raise IbrobustError(
            f"{count} images were requested, but {images.source} has {len(images.labels)}: give `n_examples`, at most "
            f"{len(images.labels)}."
        )
    if len(images.class_names) not in (10, 100):
        raise IbrobustError(
            f"{images.source} has {len(images.class_names)} classes, but the benchmark supports 10 or "
            "100: use ibrobust attack."
        )
    return images


def _is_image_folder(folder: Path) -> bool:
    """Return whether a folder is one of images, and not one for downloads; raise IbrobustError if it is neither."""
    if not folder.is_dir():
        return False
    found = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    if any((folder / name).is_dir() for name in FOLDERS.values()):
        return False
    if any((folder / name).is_dir() for name in (*TRAIN_FOLDERS, *TEST_FOLDERS)):
        return True
    if found and found.isdisjoint(LEFT_BY_DOWNLOADS):
        raise IbrobustError(f"{str(folder)!r} holds neither test images by class nor a data set: {REMEDY}.")
    return False


def _own_images(card: ModelCard, folder: Path | None, count: int | None) -> BenchmarkImages:
    """Return the images that a model was trained on, from where its card says, or downloaded to `folder`."""
    spec = card.images
    if folder is not None and read_name(spec)[0] not in DOWNLOADED:
        raise IbrobustError(f"{str(folder)!r} holds no images: {REMEDY}.")
    images = _downloaded(spec, folder, count)
    if images.fingerprint != card.dataset.fingerprint:
        raise IbrobustError(f"The images of {spec!r} are not those that {card.name!r} was trained on: {REMEDY}.")
    return images


def _downloaded(spec: str, folder: Path | None, count: int | None) -> BenchmarkImages:
    """Return the images of a ``--dataset`` value, downloaded to `folder` if they are missing."""
    try:
        dataset = load_dataset(spec, data_dir=folder)
    except IbrobustError as error:
        raise IbrobustError(f"{str(error).rpartition(': ')[0]}: {REMEDY}.") from error
    return _from_dataset(dataset, count, first=read_name(spec)[0] in FIRST)


def _from_dataset(dataset: Dataset, count: int | None, *, first: bool = False) -> BenchmarkImages:
    test = dataset.test.subset(None if first else count)
    images, labels = (values[: count if first else None] for values in (test.images, test.labels))
    are_first = first and len(images) < len(dataset.test)
    return BenchmarkImages(
        dataset.name, dataset.class_names, to_unit_range(images), labels, dataset.fingerprint, are_first
    )
