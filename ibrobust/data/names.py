"""The form of a data set's name: what is known, what is a path, and the options after it."""

from __future__ import annotations

import re
from pathlib import Path

from ibrobust.errors import IbrobustError
from ibrobust.home import expanded
from ibrobust.suggestions import remedy

NAMED_DATASETS = ("cifar10", "cifar10-jpeg", "cifar100", "svhn", "mnist", "digits")
TORCHVISION, HUGGING_FACE, MEMORY = "torchvision:", "hf:", "memory:"
# Of files of arrays.
ENDINGS = (".npz", ".safetensors")
# As the value of the option train: there are no training images.
NO_TRAINING = "none"
FORMS = f"{', '.join(NAMED_DATASETS)}, torchvision:NAME, hf:NAME, an image folder, or an .npz or .safetensors file"

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


def check_exists(spec: str) -> None:
    """Raise IbrobustError, with similar names, unless a ``--dataset`` value is a known name or an existing path."""
    name, _ = read_name(spec)
    known = name in NAMED_DATASETS or name.startswith((TORCHVISION, HUGGING_FACE, MEMORY))
    if not known and not expanded(name).exists():
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


def with_option(spec: str, key: str, value: object) -> str:
    """Return a ``--dataset`` value with one more option; it replaces an earlier value of the same option."""
    name, options = read_name(spec)
    return name + ":" + ",".join(f"{k}={v}" for k, v in {**options, key: value}.items())


def lasting_name(spec: str) -> str:
    """Return a ``--dataset`` value that means the same from every current folder: a path becomes absolute."""
    name, _ = read_name(spec)
    if name in NAMED_DATASETS or name.startswith((TORCHVISION, HUGGING_FACE, MEMORY)):
        return spec
    return str(expanded(name).resolve()) + spec[len(name) :]


def file_name(spec: str) -> str:
    """Return the last part of a data set's name or path, without options."""
    name, _ = read_name(spec)
    return (
        Path(name.partition(":")[2] or name).name
        if name.startswith((TORCHVISION, HUGGING_FACE, MEMORY))
        else (Path(name).name)
    )
