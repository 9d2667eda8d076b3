"""Data sets of torchvision, read from the data folder or downloaded into it with a progress bar."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ibrobust.data.arrays import distinct, images_of, labels_of
from ibrobust.data.dataset import Dataset, Split, no_images
from ibrobust.data.names import FLAG, HALVES, NO_TRAINING, refuse_shared
from ibrobust.data.pictures import Counter, Progress, one_tensor, pixels_of
from ibrobust.errors import IbrobustError

# These hold all their pixels in one array.
_IN_ONE_ARRAY = ("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "STL10", "SVHN", "USPS")
# Data sets in the folder of their own name, of files that torchvision accepts as they are.
_IDX = ("EMNIST", "FashionMNIST", "KMNIST", "MNIST", "QMNIST")
# Arguments that ibrobust gives itself. With compat=False the labels of QMNIST are no classes.
_OF_IBROBUST = {"root", "train", "split", "transform", "target_transform", "download", "size", "what", "compat"}

# Splits that hold other splits.
_HOLDS = {
    "trainval": {"train", "val"},
    "train+unlabeled": {"train", "unlabeled"},
    "train-challenge": {"train-standard"},
    "test": {"test10k", "test50k"},
    "nist": {"train", "test", "test10k", "test50k"},
}

# The published number of images of each half, or of each split, where torchvision accepts any file.
_COUNTS = {
    "MNIST": {"True": 60_000, "False": 10_000},
    "FashionMNIST": {"True": 60_000, "False": 10_000},
    "KMNIST": {"True": 60_000, "False": 10_000},
    "QMNIST": {"train": 60_000, "test": 60_000, "test10k": 10_000, "test50k": 50_000, "nist": 402_953},
    "EMNIST byclass": {"True": 697_932, "False": 116_323},
    "EMNIST bymerge": {"True": 697_932, "False": 116_323},
    "EMNIST balanced": {"True": 112_800, "False": 18_800},
    "EMNIST letters": {"True": 124_800, "False": 20_800},
    "EMNIST digits": {"True": 240_000, "False": 40_000},
    "EMNIST mnist": {"True": 60_000, "False": 10_000},
}


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
        train: the split of the training images, by default that of HALVES if it has no test images; "none" leaves them
            out.
        test: the split of the test images, by default that of HALVES.
        size: of the images after scaling and cutting them, see `one_tensor`; by default all must have one size.
        options: further arguments of the class, such as ``{"split": "letters"}`` of EMNIST.
        shown_name: in cards and tables; by default `name`.
        progress: called with (images done, total images) while pictures are decoded.

    Raises:
        IbrobustError: there is no such data set, it is missing and cannot be downloaded or written, it is not as it was
            published, an option is not one of its class, or training images would be test images.
    """
    from torchvision import datasets

    kind = getattr(datasets, name)
    given = _arguments(name, kind, options or {})
    splits = HALVES[name]
    if splits is FLAG and (test is not None or train not in (None, NO_TRAINING)):
        raise IbrobustError(
            f"torchvision's {name} has one training and one test half: leave train and test out, except for train=none."
        )
    wanted = [test or splits[1], *([] if train == NO_TRAINING else [train or splits[0]])]  # the test images first
    if len(wanted) > 1 and _share_images(*wanted):
        refuse_shared(shown_name or name, train)
        del wanted[1]
    halves = []
    for split in wanted:
        argument = "train" if splits is FLAG else "what" if name == "QMNIST" else "split"
        chosen = {argument: split == "True" if splits is FLAG else split}
        halves.append(_half(name, kind, folder, {**given, **chosen}))
        _check_count(name, given, split, len(halves[-1]), folder)
    class_names = _class_names(halves[0], given)
    in_one_array = name in _IN_ONE_ARRAY and size is None
    if in_one_array:
        parts = [_stored(half) for half in halves]
    else:
        told = Counter(progress, sum(len(half) for half in halves))
        parts = [_decoded(name, half, size, told) for half in halves]
    if class_names is not None and class_names[0] == "N/A":  # EMNIST counts its letters from 1
        class_names, parts = class_names[1:], [Split(part.images, part.labels - 1) for part in parts]
    count = max(int(part.labels.max()) for part in parts) + 1
    if class_names is None or len(class_names) < count:
        class_names = tuple(str(label) for label in range(count))
    train_part = parts[1] if len(parts) > 1 else no_images(parts[0])
    dataset = Dataset(shown_name or name, class_names, train_part, parts[0])
    # Pictures are read in three channels; an array has those that it has.
    return dataset.in_channels(1) if not in_one_array and dataset.is_grey else dataset


def _share_images(one: str, other: str) -> bool:
    return not ({one} | _HOLDS.get(one, set())).isdisjoint({other} | _HOLDS.get(other, set()))


def _arguments(name: str, kind: Any, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the options as arguments of the class, of the types that it takes."""
    own = _OF_IBROBUST - {"split"} if name == "EMNIST" else _OF_IBROBUST
    types = {option: found for option, found in _option_types(kind).items() if option not in own}
    arguments = {}
    for option, text in options.items():
        if option not in types:
            possible = ", ".join(sorted({*types, "train", "test", "size", "channels"}))
            raise IbrobustError(f"torchvision's {name} has no option {option!r}: choose from {possible}.")
        arguments[option] = _value(name, option, text, types[option])
    targets = arguments.get("target_types", "category")  # of OxfordIIITPet
    if targets not in ("category", "binary-category"):
        raise IbrobustError(
            f"The targets {targets!r} of torchvision's {name} are no classes: give target_types=category or "
            "target_types=binary-category."
        )
    return arguments


def _option_types(kind: Any) -> dict[str, str]:
    """Return the arguments of a class that are a bool, an int or text, with that type."""
    types: dict[str, str] = {}
    for base in inspect.getmro(kind):
        parameters = inspect.signature(base).parameters.values()
        for parameter in parameters:
            words = re.findall(r"\w+", str(parameter.annotation))
            found = next((word for word in ("bool", "int", "str") if word in words and "Callable" not in words), None)
            if found and parameter.kind is not parameter.VAR_KEYWORD:
                types.setdefault(parameter.name, found)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break  # it hands no argument on to the next
    return types


def _value(name: str, option: str, text: str, kind: str) -> bool | int | str:
    if kind == "bool":
        if text not in FLAG:
            raise IbrobustError(f"torchvision's {name} does not take {option}={text}: give True or False.")
        return text == "True"
    if kind == "int":
        if not text.isdecimal():
            raise IbrobustError(f"torchvision's {name} does not take {option}={text}: give a whole number.")
        return int(text)
    return text


def _half(name: str, kind: Any, folder: Path, arguments: Mapping[str, Any]) -> Any:
    # EMNIST hands its arguments on to MNIST.
    can_download = "download" in inspect.signature(kind).parameters or name == "EMNIST"
    download = {"download": True} if can_download else {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return kind(str(folder), **arguments)
        except (OSError, RuntimeError, AssertionError, ValueError) as error:  # missing, or not as they were published
            told = isinstance(error, OSError) or "not found" in str(error) or "Unknown value" in str(error)
            if name in _IDX and not told:
                place = folder / name
                raise _altered(name, f"A file in {str(place)!r}", "it is cut short or damaged", place) from error
            if isinstance(error, ValueError):
                raise
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
            raise _altered(name, f"The file {str(path)!r}", "another MD5", place)


def _check_count(name: str, given: Mapping[str, Any], split: str, count: int, folder: Path) -> None:
    """Raise IbrobustError if a half has another number of images than was published."""
    published = _COUNTS.get(f"EMNIST {given['split']}" if name == "EMNIST" else name, {}).get(split, count)
    if count != published:
        place = folder / name
        raise _altered(name, f"A file in {str(place)!r}", f"{count:,} images instead of {published:,}", place)


def _altered(name: str, what: str, fault: str, place: Path) -> IbrobustError:
    return IbrobustError(
        f"{what} is not as {_SPOKEN.get(name, name)} was published ({fault}): remove the folder {str(place)!r} so that "
        "the images are downloaded again, or give your own images as a folder or an .npz file."
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


def _class_names(half: Any, given: Mapping[str, Any]) -> tuple[str, ...] | None:
    binary = given.get("target_types") == "binary-category"
    names = getattr(half, "bin_classes" if binary else "classes", None)
    if not names:
        return None
    # MNIST's are "0 - zero", ImageNet's tuples of synonyms.
    words = [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
    return distinct([word.partition(" - ")[0] if word[:1].isdigit() else word for word in words])
