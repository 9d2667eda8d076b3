"""A data set as resident uint8 tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ibrobust.readable import Readable


@dataclass(frozen=True, repr=False)
class Split(Readable):
    """One half of a data set.

    Attributes:
        images: (N, 3, H, W) uint8 in [0, 255].
        labels: (N,) int64 class indices.
    """

    images: Tensor
    labels: Tensor

    def _sentence(self) -> str:
        return f"{len(self):,} images of {' x '.join(map(str, self.images.shape[1:]))}"

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """Return the same split with both tensors on `device`."""
        return Split(self.images.to(device), self.labels.to(device))

    def subset(self, count: int | None) -> Split:
        """Return an evenly spaced subset of `count` images, in order; everything if `count` is None.

        An image folder is sorted by class, so the first `count` images would be of one class only.
        """
        if count is None or count >= len(self):
            return self
        chosen = torch.arange(count) * len(self) // count
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True, repr=False)
class Dataset(Readable):
    """Training and test images with their names.

    Attributes:
        name: ``cifar10``, ``digits``, or the folder's name.
        class_names: name of each class index.
        train: the training images.
        test: the test images.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split

    def _sentence(self) -> str:
        size = " x ".join(map(str, self.train.images.shape[1:]))
        return (
            f"{self.name}, {len(self.train):,} training and {len(self.test):,} test images of {size}, "
            f"{self.num_classes} classes"
        )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of class names, labels and every pixel: equal exactly when the data is."""
        digest = hashlib.sha256()
        digest.update("\0".join(self.class_names).encode())
        for split in (self.train, self.test):
            digest.update(repr(tuple(split.images.shape)).encode())
            digest.update(split.images.contiguous().numpy().data)
            digest.update(split.labels.contiguous().numpy().data)
        return digest.hexdigest()


def to_unit_range(images: Tensor) -> Tensor:
    """Return float32 images in [0, 1] from uint8 images in [0, 255], shape unchanged."""
    return images.to(torch.float32).div_(255.0)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, in [0, 1] scale.

    Args:
        images: (N, C, H, W) uint8 in [0, 255].
    """
    # Exact integer histograms: no rounding error however many pixels there are, and no float copy of the images.
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        weights = counts / counts.sum()
        mean = (weights * values).sum()
        means.append(float(mean))
        deviations.append(float((weights * (values - mean).square()).sum().sqrt()))
    return tuple(means), tuple(deviations)
