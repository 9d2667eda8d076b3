"""One function from what the user typed as ``--dataset`` to the images."""

from __future__ import annotations

from pathlib import Path

from ibrobust.data.cifar10 import load_cifar10
from ibrobust.data.dataset import Dataset
from ibrobust.data.digits import load_digits
from ibrobust.data.image_folder import Progress, load_image_folder
from ibrobust.errors import IbrobustError
from ibrobust.home import data_dir as default_data_dir
from ibrobust.home import expanded


def load_dataset(spec: str, *, data_dir: str | Path | None = None, progress: Progress | None = None) -> Dataset:
    """Return the data set that `spec` names, as uint8 tensors on the CPU.

    Args:
        spec: ``cifar10``, ``digits``, or the path of an image folder with ``train/<class>/*`` and
            ``test/<class>/*``.
        data_dir: where CIFAR-10 is, or is downloaded to, and where decoded image folders are cached; by default
            the ``data`` folder in ibrobust's home.
        progress: called with (images decoded, images in all) while an image folder is decoded.

    Raises:
        IbrobustError: there is no such data set, or something in it cannot be read.
    """
    if not spec:
        raise IbrobustError("The data set name is empty: give cifar10, digits, or the path of an image folder.")
    folder = expanded(data_dir) if data_dir is not None else default_data_dir()
    if spec == "digits":
        return load_digits()
    if spec == "cifar10":
        return load_cifar10(folder)
    return load_image_folder(expanded(spec).resolve(), cache=folder / "decoded", progress=progress)
