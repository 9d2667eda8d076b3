"""CIFAR-10 through torchvision: read from the data folder, or downloaded into it with a progress bar."""

from __future__ import annotations

from pathlib import Path

import torch

from ibrobust.data.dataset import Dataset, Split
from ibrobust.errors import IbrobustError


def load_cifar10(folder: Path) -> Dataset:
    """Return CIFAR-10: 50,000 training and 10,000 test images of 32x32 RGB.

    Args:
        folder: holds ``cifar-10-batches-py``, which is downloaded into it if missing.

    Raises:
        IbrobustError: the images are missing and cannot be downloaded or written.
    """
    from torchvision.datasets import CIFAR10

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # torchvision compares every file with its published MD5 before opening it, and prints nothing if all are
        # present.
        halves = [CIFAR10(str(folder), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise IbrobustError(
            f"CIFAR-10 is not in {folder} and could not be downloaded there ({error}): check the network and "
            "that the folder can be written, unpack cifar-10-python.tar.gz there yourself, or use images that need "
            "no network: an image folder, or `dataset='digits'`."
        ) from error
    train, test = (
        Split(torch.from_numpy(half.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(half.targets))
        for half in halves
    )
    return Dataset("cifar10", tuple(halves[0].classes), train, test)
