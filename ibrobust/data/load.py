"""The images of a ``--dataset`` value."""

from __future__ import annotations

import difflib
from pathlib import Path

from ibrobust.data.cifar10 import load_cifar10
from ibrobust.data.cifar10_jpeg import load_cifar10_jpeg
from ibrobust.data.dataset import Dataset
from ibrobust.data.digits import load_digits
from ibrobust.data.image_folder import Progress, load_image_folder
from ibrobust.data.names import NAMED_DATASETS
from ibrobust.errors import IbrobustError
from ibrobust.home import data_dir as default_data_dir
from ibrobust.home import expanded
from ibrobust.live_line import following


def load_dataset(spec: str, *, data_dir: str | Path | None = None, progress: bool | Progress | None = None) -> Dataset:
    """Return the data set of that name or path, as uint8 tensors on the CPU.

    Args:
        spec: ``cifar10``, ``cifar10-jpeg``, ``digits``, or the path of an image folder with ``train/<class>/*`` and
            ``test/<class>/*``.
        data_dir: folder for CIFAR-10 and its JPEG files, downloaded if missing, and for the cache of decoded image
            folders; by default the ``data`` folder in ibrobust's home.
        progress: whether to show it; by default in a notebook or on a terminal. Or a function, called with (images
            done, total images) while JPEG files are downloaded or images are decoded.

    Raises:
        IbrobustError: the data set does not exist, or something in it cannot be read.

    Examples:
        >>> import ibrobust
        >>> digits = ibrobust.load_dataset("digits")
        >>> digits.train.images.shape, digits.test.labels.shape
        (torch.Size([1437, 3, 32, 32]), torch.Size([360]))
    """
    if not spec:
        raise IbrobustError(f"The data set name is empty: give {', '.join(NAMED_DATASETS)}, or the path of a folder.")
    folder = expanded(data_dir) if data_dir is not None else default_data_dir()
    if spec == "digits":
        return load_digits()
    if spec == "cifar10":
        return load_cifar10(folder)
    if spec == "cifar10-jpeg":
        with following(progress, f"reading {spec}", lambda line: line.show) as report:
            return load_cifar10_jpeg(folder, progress=report)
    root = expanded(spec).resolve()
    if not root.exists():
        near = difflib.get_close_matches(spec, NAMED_DATASETS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "give one of these names or a folder"
        raise IbrobustError(
            f"The data set {spec!r} is neither a known name ({', '.join(NAMED_DATASETS)}) nor a folder with "
            f"train/<class>/* and test/<class>/* images: {hint}."
        )
    with following(progress, f"reading {spec}", lambda line: line.show) as report:
        return load_image_folder(root, cache=folder / "decoded", progress=report)
