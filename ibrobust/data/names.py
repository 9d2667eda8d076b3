"""The form of a data set's name: what is known, what is a path, and the options after it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path, PureWindowsPath

from ibrobust.errors import IbrobustError
from ibrobust.home import expanded
from ibrobust.suggestions import remedy, suggestion

NAMED_DATASETS = ("cifar10", "cifar10-jpeg", "cifar100", "svhn", "mnist", "digits")
TORCHVISION, HUGGING_FACE, MEMORY = "torchvision:", "hf:", "memory:"
# Of files of arrays.
ENDINGS = (".npz", ".safetensors")
# As the value of the option train: there are no training images.
NO_TRAINING = "none"
FORMS = f"{', '.join(NAMED_DATASETS)}, torchvision:NAME, hf:NAME, an image folder, or an .npz or .safetensors file"

# A side of an image that the option size gives: no memory holds a data set of larger ones.
MOST_PIXELS = 4096

# How torchvision names the halves of its data sets of images and classes: by a flag, or by a split each.
FLAG = ("True", "False")
HALVES = {
    "CIFAR10": FLAG,
    "CIFAR100": FLAG,
    "Country211": ("train", "test"),
    "DTD": ("train", "test"),
    "EMNIST": FLAG,
    "FER2013": ("train", "test"),
    "FGVCAircraft": ("trainval", "test"),
    "FashionMNIST": FLAG,
    "Flowers102": ("train", "test"),
    "Food101": ("train", "test"),
    "GTSRB": ("train", "test"),
    "ImageNet": ("train", "val"),
    "Imagenette": ("train", "val"),
    "KMNIST": FLAG,
    "MNIST": FLAG,
    "OxfordIIITPet": ("trainval", "test"),
    "PCAM": ("train", "test"),
    "Places365": ("train-standard", "val"),
    "QMNIST": ("train", "test"),
    "RenderedSST2": ("train", "test"),
    "STL10": ("train", "test"),
    "SVHN": ("train", "test"),
    "StanfordCars": ("train", "test"),
    "USPS": FLAG,
}

# Those of digits, letters and signs: the mirror image of one is another, or none.
UNMIRRORED = (
    "digits",
    "mnist",
    "svhn",
    *(
        f"{TORCHVISION}{kind}"
        for kind in ("EMNIST", "GTSRB", "KMNIST", "MNIST", "QMNIST", "RenderedSST2", "SVHN", "USPS")
    ),
)

# The options of each kind of data set; further ones of torchvision's classes are known to torchvision alone.
_FIXED, _HALVES, _PICTURES = ("channels",), ("train", "test", "channels"), ("train", "test", "size", "channels")
_OF_HUGGING_FACE = ("config", "image", "label", *_PICTURES)

# key=value,key=value at the end of a name, after a colon, as of attacks.
_OPTIONS = re.compile(r":(\w+=[^=,]+(?:,\w+=[^=,]+)*)$")


def read_name(spec: str) -> tuple[str, dict[str, str]]:
    """Return the name or path of a ``--dataset`` value and its options, such as ``pets`` and ``{"test": "val"}``.

    Raises:
        IbrobustError: the value is empty, or gives an option twice.
    """
    if not spec:
        raise IbrobustError(f"The data set name is empty: give {FORMS}.")
    found = _OPTIONS.search(spec)
    if found is None or expanded(spec).exists():  # a path may look like one with options
        return spec, {}
    pairs = [pair.split("=") for pair in found.group(1).split(",")]
    options = {key: value for key, value in pairs}
    if len(options) < len(pairs):
        raise IbrobustError(f"The data set {spec!r} gives an option twice: give each once.")
    return spec[: found.start()], options


def may_be_mirrored(spec: str) -> bool:
    """Return whether a ``--dataset`` value is none of `UNMIRRORED`, so that its images may be mirrored."""
    return not any(spec == name or spec.startswith(f"{name}:") for name in UNMIRRORED)


def _is_known(name: str) -> bool:
    """Return whether a name, without options, is that of a known data set and no path."""
    return name in NAMED_DATASETS or name.startswith((TORCHVISION, HUGGING_FACE, MEMORY))


def check_exists(spec: str) -> None:
    """Raise IbrobustError, with similar names, unless a ``--dataset`` value is a known name or an existing path.

    Its options are checked as well, as far as they are known without reading it.
    """
    name, options = read_name(spec)
    known = _is_known(name)
    if not known and not expanded(name).exists():
        if re.search(r":\w+=", name):
            raise IbrobustError(
                f"The data set {spec!r} has options after two colons: write them after one, with commas between them, "
                "as in NAME:size=64,channels=3."
            )
        # A path has no similar name.
        similar = NAMED_DATASETS if Path(name).name == name else ()
        raise IbrobustError(
            f"The data set {spec!r} is neither a known name, nor a file, nor a folder with train/<class>/* and "
            f"test/<class>/* images: {remedy(name, similar, f'give {FORMS}.')}"
        )

    if not known and expanded(name).is_file() and Path(name).suffix not in ENDINGS:
        raise IbrobustError(
            f"The data set {spec!r} is a file that does not end in {' or '.join(ENDINGS)}: give a folder of images "
            "or such a file."
        )
    if name.startswith(HUGGING_FACE) and "datasets" not in sys.modules and find_spec("datasets") is None:
        raise needs_datasets(name)
    _check_options(spec, name, options)


def refuse_shared(spec: str, train: str | None) -> None:
    """Raise IbrobustError if the half `train`, which has test images, was asked for; by default it is left out."""
    if train is not None:
        raise IbrobustError(
            f"The training images {train!r} of {spec!r} are test images as well: name another half as train or as "
            "test, or leave the training images out with train=none."
        )


def needs_datasets(name: str, why: str = "") -> IbrobustError:
    """Return the error for a data set of the Hub, by its whole name, without a package datasets that works."""
    return IbrobustError(f"The data set {name} needs the package datasets{why}: pip install --upgrade datasets.")


def _check_options(spec: str, name: str, options: dict[str, str]) -> None:
    for option, most in (("size", MOST_PIXELS), ("channels", None)):
        if option in options:
            _check_count(spec, option, options[option], most=most)
    if name.startswith(MEMORY):
        return
    if name.startswith(TORCHVISION) and (kind := name.removeprefix(TORCHVISION)) not in HALVES:
        hint = suggestion(kind, HALVES, f"choose one of {', '.join(HALVES)}.")
        raise IbrobustError(f"torchvision has no classification data set {kind!r} that ibrobust reads: {hint}")
    known: tuple[str, ...]
    if name in ("digits", "cifar10-jpeg"):
        known = _FIXED
    elif name.startswith(HUGGING_FACE):
        known = _OF_HUGGING_FACE
    elif name in NAMED_DATASETS or name.startswith(TORCHVISION):
        return
    else:
        known = _HALVES if expanded(name).is_file() else _PICTURES
    for option, value in options.items():
        if option in ("train", "test") and option not in known:
            raise IbrobustError(f"The data set {name!r} has no splits to choose from, such as {value!r}: leave it out.")
        if option not in known:
            hint = remedy(option, known, f"it takes {', '.join(known)}.")
            raise IbrobustError(f"The data set {spec!r} has no option {option!r}: {hint}")


def _check_count(spec: str, option: str, text: str, *, most: int | None) -> None:
    if not text.isdecimal() or int(text) < 1 or (most is not None and int(text) > most):
        bounds = ", at least 1" if most is None else f" from 1 to {most}"
        raise IbrobustError(f"The data set {spec!r} gives {option}={text}: give a whole number{bounds}.")


def with_option(spec: str, key: str, value: object) -> str:
    """Return a ``--dataset`` value with one more option; it replaces an earlier value of the same option."""
    name, options = read_name(spec)
    return _with_options(name, {**options, key: value})


def _with_options(name: str, options: Mapping[str, object]) -> str:
    return name + ":" * bool(options) + ",".join(f"{key}={value}" for key, value in options.items())


def attacked_split(source: str | None) -> str | None:
    """Return the split whose images stand as test images; None for those that are by default or named "test"."""
    split = None if source is None else read_name(source)[1].get("test")
    return None if split == "test" else split


def training_splits(source: str) -> frozenset[str]:
    """Return the possible names of the split of the training images; empty if there are none."""
    name, options = read_name(source)
    if "train" in options:
        return frozenset({options["train"]} - {NO_TRAINING})
    halves = HALVES.get(name.removeprefix(TORCHVISION)) if name.startswith(TORCHVISION) else None
    return frozenset({halves[0]} if halves else {"train", "training"})


def attacked_images(source: str | None) -> str:
    """Return the attacked images in words: "test images", "training images" or "images of split val"."""
    split = attacked_split(source)
    if source is None or split is None:
        return "test images"
    # The data set's own training images, whichever half the value names as such.
    return "training images" if split in training_splits(read_name(source)[0]) else f"images of split {split}"


def attacked_name(name: str, source: str | None) -> str:
    """Return the name of a data set, with its attacked images if they are others: "images of split val of digits"."""
    return name if attacked_split(source) is None else f"{attacked_images(source)} of {name}"


def lasting_name(spec: str) -> str:
    """Return a ``--dataset`` value that means the same from every current folder: a path becomes absolute."""
    name, _ = read_name(spec)
    if _is_known(name):
        return spec
    return str(expanded(name).resolve()) + spec[len(name) :]


def portable_name(spec: str, shown: str) -> str:
    """Return a ``--dataset`` value without a path of this machine; its options stay.

    Args:
        spec: the value.
        shown: name of the data set, which replaces its path. A path in an option is replaced by its last part.
    """
    name, options = read_name(spec)
    is_path = not _is_known(name) or _leads_elsewhere(name.removeprefix(HUGGING_FACE))  # datasets reads folders too
    kept = {key: _last_part(value) if _leads_elsewhere(value) else value for key, value in options.items()}
    return _with_options(shown if is_path else name, kept)


def _leads_elsewhere(text: str) -> bool:
    """Return whether a text is a path, of any system, that is absolute, in a home folder, or goes up a folder."""
    path = PureWindowsPath(text)  # which / separates as well
    return bool(path.anchor) or text.startswith("~") or ".." in path.parts


def _last_part(path: str) -> str:
    return PureWindowsPath(path).name


def file_name(spec: str) -> str:
    """Return the last part of a data set's name or path, without options."""
    name, _ = read_name(spec)
    return (
        Path(name.partition(":")[2] or name).name
        if name.startswith((TORCHVISION, HUGGING_FACE, MEMORY))
        else (Path(name).name)
    )
