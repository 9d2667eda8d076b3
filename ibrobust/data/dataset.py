"""A data set as resident uint8 tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ibrobust.data.arrays import class_names_of, images_and_labels_of, numbered_classes
from ibrobust.data.names import with_option
from ibrobust.errors import IbrobustError
from ibrobust.readable import Readable
from ibrobust.spread import spread_evenly
from ibrobust.suggestions import a_type

# The largest value of images on a scale of their own, such as 0/1 or 0..16: epsilon would have no meaning.
OTHER_SCALE = 16


@dataclass(frozen=True, repr=False)
class Split(Readable):
    """One half of a data set.

    Attributes:
        images: (N, C, H, W) uint8 in [0, 255], where C is 3, or 1 for grey images.
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

        Every class keeps its share, see `spread_evenly`.
        """
        if count is None or count >= len(self):
            return self
        chosen = spread_evenly(self.labels, count).to(self.labels.device)
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True, repr=False)
class Dataset(Readable):
    """Training and test images with their names.

    Attributes:
        name: ``cifar10``, ``digits``, or the name of a folder or file.
        class_names: name of each class index.
        train: the training images; there may be none, if only the test images are used.
        test: the test images.
        source: the value with which `load_dataset` reads the same images; None for images in memory.

    Raises:
        IbrobustError: a tensor has another shape or dtype, training and test images differ in shape, there are no test
            images, the images are not on the scale of 0 to 255, or a label has no class name.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    source: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        names = self.class_names
        if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise IbrobustError(
                f"The data set {self.name!r} has the class names {', '.join(map(str, names)) or '(none)'}: at least 2 "
                "are needed, each another one."
            )
        for what, split in (("training", self.train), ("test", self.test)):
            _check_split(self, what, split)
        if len(self.test) == 0:
            raise IbrobustError(f"The data set {self.name!r} has no test images: give at least one.")
        shapes = [tuple(split.images.shape[1:]) for split in (self.train, self.test)]
        if len(self.train) and shapes[0] != shapes[1]:
            raise IbrobustError(
                f"The data set {self.name!r} has training images of shape {shapes[0]} and test images of shape "
                f"{shapes[1]}: bring all images to one size and number of channels."
            )
        # Only all of them: a single image may be dark. All black images are on every scale.
        highest = 0
        for split in (self.test, self.train):
            if len(split) and highest <= OTHER_SCALE:
                highest = max(highest, int(split.images.max()))
        if 0 < highest <= OTHER_SCALE:
            raise IbrobustError(
                f"The images of {self.name!r} have no value above {highest} of 255, so that an epsilon in [0, 1] would "
                f"not be on their scale: give floats in [0, 1], or multiply them by {255 // highest}. Images that are "
                "really as dark as this must be brightened."
            )

    @classmethod
    def of(
        cls, test: Any, *, train: Any = None, class_names: Sequence[str] | None = None, name: str = "data"
    ) -> Dataset:
        """Return a data set of images in memory.

        Args:
            test: the test images, which are attacked: a pair (images, labels) of arrays, tensors or lists; a torch
                Dataset of pairs (image, label); or a DataLoader. Images are uint8 in [0, 255], or floats in [0, 1],
                which are rounded to 8 bits as in an image file; their shape is (N, C, H, W), (N, H, W, C) or (N, H, W)
                with 1 or 3 channels. Labels (N,) are whole numbers from 0.
            train: the training images, likewise; needed only for `ibrobust.train`.
            class_names: name of each class index; by default those of the torch Dataset, else "0", "1", ...
            name: of the data set, for cards and tables.

        Raises:
            IbrobustError: something is not of that form, see also `Dataset`.

        Examples:
            >>> import ibrobust
            >>> import numpy as np
            >>> images = np.zeros((4, 28, 28), dtype=np.uint8)
            >>> data = ibrobust.Dataset.of((images, [0, 1, 2, 0]), name="black")
            >>> data.test.images.shape, data.class_names
            (torch.Size([4, 1, 28, 28]), ('0', '1', '2'))
        """
        halves = {"test": Split(*images_and_labels_of(test, "test"))}
        if train is not None:
            halves["train"] = Split(*images_and_labels_of(train, "training"))
        names = class_names
        if names is None:
            named = [found for found in map(class_names_of, (train, test)) if found is not None]
            if len(set(named)) > 1:
                raise IbrobustError(
                    f"The classes of the training images ({', '.join(named[0])}) are not those of the test images "
                    f"({', '.join(named[1])}), so that a label would mean another class: give both the same classes in "
                    "the same order."
                )
            names = named[0] if named else None
        if names is None:
            names = numbered_classes(half.labels for half in halves.values())
        return cls(name, tuple(names), halves.get("train", no_images(halves["test"])), halves["test"])

    def _sentence(self) -> str:
        size = " x ".join(map(str, self.train.images.shape[1:]))
        return (
            f"{self.name}, {len(self.train):,} training and {len(self.test):,} test images of {size}, "
            f"{self.num_classes} classes"
        )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def read_from(self, source: str) -> Dataset:
        """Return the same data set with its source."""
        named = replace(self, source=source)
        if "fingerprint" in vars(self):  # computed already, of the same pixels
            vars(named)["fingerprint"] = self.fingerprint
        return named

    def in_channels(self, channels: int) -> Dataset:
        """Return the same images in 1 channel or in 3.

        Raises:
            IbrobustError: images in colour are asked for in one channel.
        """
        source = self.source
        if source is not None and self.test.images.shape[1] != channels:
            source = with_option(source, "channels", channels)
        train, test = (self._converted(half, channels) for half in (self.train, self.test))
        return replace(self, train=train, test=test, source=source)

    @property
    def is_grey(self) -> bool:
        """Whether every image is grey: of 1 channel, or of 3 equal ones."""
        parts = [part for half in (self.test, self.train) for part in half.images.split(1000)]
        return all(bool((part == part[:, :1]).all()) for part in parts)

    def _converted(self, half: Split, channels: int) -> Split:
        if half.images.shape[1] == channels:
            return half
        if channels not in (1, 3):
            raise IbrobustError(f"The data set {self.name!r} is asked for in {channels} channels: 1 or 3 are possible.")
        if channels == 1 and not self.is_grey:
            raise IbrobustError(f"The images of {self.name!r} are in colour, so they keep 3 channels.")
        return Split(half.images[:, :1].expand(-1, channels, -1, -1).contiguous(), half.labels)

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


def no_images(like: Split) -> Split:
    """Return a split without images, of the shape of another one."""
    return Split(like.images[:0], like.labels[:0])


def check_dataset(value: object) -> None:
    """Raise IbrobustError if `value` is no Dataset, such as the name of one."""
    if not isinstance(value, Dataset):
        raise IbrobustError(
            f"The data set is {a_type(value)}: give ibrobust.load_dataset(NAME), or ibrobust.Dataset.of(test, "
            "train=...), which takes arrays, tensors and loaders."
        )


def _check_split(dataset: Dataset, what: str, split: Split) -> None:
    images, labels = split.images, split.labels
    start = f"The {what} images of {dataset.name!r}"
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise IbrobustError(
            f"{start} have the shape {tuple(images.shape)} and the dtype {str(images.dtype).removeprefix('torch.')}, "
            "not (N, C, H, W) in uint8: ibrobust.Dataset.of converts arrays and loaders."
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise IbrobustError(
            f"{start} have labels of shape {tuple(labels.shape)} and dtype {str(labels.dtype).removeprefix('torch.')}, "
            f"not ({len(images)},) in int64: ibrobust.Dataset.of converts them."
        )
    if len(labels) == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise IbrobustError(
            f"{start} have labels from {low} to {high}, but classes are counted from 0: leave out images without a "
            f"label, or give labels + {-low} if {low} is the first class."
        )
    if high >= dataset.num_classes:
        raise IbrobustError(
            f"{start} have labels from {low} to {high}, but there are {dataset.num_classes} classes: labels go from 0 "
            f"to {dataset.num_classes - 1}."
        )


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
