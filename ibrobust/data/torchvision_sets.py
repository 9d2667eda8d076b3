"""Data sets of torchvision, read from the data folder or downloaded into it with a progress bar."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ibrobust.data.arrays import distinct, images_of, labels_of
from ibrobust.data.dataset import Dataset, Split, no_images
from ibrobust.data.names import FLAG, HALVES, NO_TRAINING
from ibrobust.data.pictures import Counter, Progress, one_tensor, pixels_of
from ibrobust.errors import IbrobustError

# These hold all their pixels in one array.
_IN_ONE_ARRAY = ("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "STL10", "SVHN", "USPS")
_OF_IBROBUST = ("root", "train", "split", "transform", "target_transform", "download", "loader", "transforms")


def load_torchvision(
    name: str,
    folder: Path,
    *,
    train: str | None = None,
    test: str | None = None,
    size: int | None = None,
    options: Mapping[str, str] | None = None,
    shown_name: str | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Return a data set of images and classes of torchvision; grey images have 1 channel.

    Args:
        name: of its class in torchvision.datasets.
        folder: holds the files as torchvision lays them out; they are downloaded into it if missing.
        train: the split of the training images, by default that of HALVES; "none" leaves them out.
        test: the split of the test images, likewise.
        size: of the images after scaling and cutting them, see `one_tensor`; by default all must have one size.
        options: further arguments of the class, such as ``{"split": "letters"}`` of EMNIST.
        shown_name: in cards and tables; by default `name`.
        progress: called with (images done, total images) while pictures are decoded.

    Raises:
        IbrobustError: there is no such data set, or it is missing and cannot be downloaded or written.
    """
    from torchvision import datasets

    kind = getattr(datasets, name)
    given = _arguments(name, kind, options or {})
    splits = HALVES[name]
    wanted = [test or splits[1], *([] if train == NO_TRAINING else [train or splits[0]])]
    if splits is FLAG and not set(wanted) <= set(FLAG):
        raise IbrobustError(f"torchvision's {name} has one training and one test half: leave train and test out.")
    halves = []  # the test images first
    for split in wanted:
        chosen = {"train": split == "True"} if splits is FLAG else {"split": split}
        halves.append(_half(name, kind, folder, {**given, **chosen}))
    class_names = _class_names(halves[0])
    in_one_array = name in _IN_ONE_ARRAY and size is None
    if in_one_array:
        parts = [_stored(half) for half in halves]
    else:
        told = Counter(progress, sum(len(half) for half in halves))
        parts = [_decoded(name, half, size, told) for half in halves]
    count = max(int(part.labels.max()) for part in parts) + 1
    if class_names is None or len(class_names) < count:
        class_names = tuple(str(label) for label in range(count))
    train_part = parts[1] if len(parts) > 1 else no_images(parts[0])
    dataset = Dataset(shown_name or name, class_names, train_part, parts[0])
    # Pictures are read in three channels; an array has those that it has.
    return dataset.in_channels(1) if not in_one_array and dataset.is_grey else dataset


def _arguments(name: str, kind: Any, options: Mapping[str, str]) -> dict[str, Any]:
    taken = {
        parameter
        for base in inspect.getmro(kind)
        if base.__module__.startswith("torchvision")
        for parameter in inspect.signature(base).parameters
    }
    taken -= {"self", "args", "kwargs", *(_OF_IBROBUST if name != "EMNIST" else set(_OF_IBROBUST) - {"split"})}
    for option in options:
        if option not in taken:
            possible = ", ".join(sorted({*taken, "train", "test", "size", "channels"}))
            raise IbrobustError(f"torchvision's {name} has no option {option!r}: choose from {possible}.")
    return dict(options)


def _half(name: str, kind: Any, folder: Path, arguments: Mapping[str, Any]) -> Any:
    # EMNIST hands its arguments on to MNIST.
    can_download = "download" in inspect.signature(kind).parameters or name == "EMNIST"
    download = {"download": True} if can_download else {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return kind(str(folder), **arguments)
        except (OSError, RuntimeError):  # missing, or not as they were published
            _refuse_altered(name, kind, folder)
            return kind(str(folder), **arguments, **download)
    except (OSError, RuntimeError, ImportError) as error:
        raise IbrobustError(
            f"The images of {_SPOKEN.get(name, name)} are not in {str(folder)!r} and could not be downloaded there "
            f"({' '.join(str(error).split())}): check the network and that the folder can be written, put "
            f"{_FILES.get(name, 'its files')} there yourself, as torchvision lays them out, or use images that need no "
            "network: an image folder, or `dataset='digits'`."
        ) from error
    except (TypeError, ValueError) as error:
        raise IbrobustError(
            f"torchvision's {name} does not take these options: {' '.join(str(error).split())}"
        ) from error


def _refuse_altered(name: str, kind: Any, folder: Path) -> None:
    """Raise IbrobustError for a file that is not as published: a download would overwrite it without a question."""
    published = [tuple(pair) for pair in [*getattr(kind, "train_list", []), *getattr(kind, "test_list", [])]]
    if meta := getattr(kind, "meta", None):
        published.append((meta["filename"], meta["md5"]))
    place = folder / getattr(kind, "base_folder", "")
    for file, digest in published:
        path = place / file
        if path.is_file() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != digest:
            raise IbrobustError(
                f"The file {str(path)!r} is not as {_SPOKEN.get(name, name)} was published (another MD5): remove the "
                f"folder {str(place)!r} so that the images are downloaded again, or give your own images as a folder "
                "or an .npz file."
            )


_SPOKEN = {"CIFAR10": "CIFAR-10", "CIFAR100": "CIFAR-100"}
_FILES = {
    "CIFAR10": "the unpacked cifar-10-python.tar.gz",
    "CIFAR100": "the unpacked cifar-100-python.tar.gz",
    "MNIST": "MNIST/raw with the four files",
    "SVHN": "train_32x32.mat and test_32x32.mat",
}


def _stored(half: Any) -> Split:
    images = images_of(half.data, "torchvision")
    labels = half.targets if hasattr(half, "targets") else half.labels
    return Split(images, labels_of(labels, len(images), "torchvision"))


def _decoded(name: str, half: Any, size: int | None, told: Counter) -> Split:
    labels: list[int] = []

    def pictures() -> Any:
        for index in range(len(half)):
            picture, label = half[index]
            labels.append(label)
            yield f"Image {index} of {name}", pixels_of(picture, f"Image {index} of {name}")

    images = one_tensor(pictures(), size=size, told=told)
    return Split(images, labels_of(labels, len(images), "torchvision"))


def _class_names(half: Any) -> tuple[str, ...] | None:
    names = getattr(half, "classes", None)
    if not names:
        return None
    # MNIST's are "0 - zero", ImageNet's tuples of synonyms.
    words = [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
    return distinct([word.partition(" - ")[0] if word[:1].isdigit() else word for word in words])
