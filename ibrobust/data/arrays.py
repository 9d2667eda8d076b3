"""Images and labels from arrays, tensors, lists and loaders, as the uint8 tensors of a `Split`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ibrobust.data.pictures import pixels_of
from ibrobust.errors import IbrobustError
from ibrobust.from_numpy import tensor_of
from ibrobust.suggestions import a_type

CHANNELS = (1, 3)
# How far beyond [0, 1] interpolation and other steps may round a float: less than half a level of 8 bits.
ROUNDING = 1e-3


def images_and_labels_of(source: Any, what: str) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) uint8 in [0, 255] and labels (N,) int64 of anything that gives both.

    Args:
        source: a pair (images, labels), see `images_of` and `labels_of`; or a torch Dataset of such pairs of one image
            each; or a DataLoader of such pairs of a batch each.
        what: they are, to begin an error with: "test".

    Raises:
        IbrobustError: it is none of these, or has no images.
    """
    if isinstance(source, (tuple, list)) and len(source) == 2:
        images, labels = source
    elif isinstance(source, DataLoader):
        batches = [_pair(batch, what) for batch in source]
        images = torch.cat([images_of(images, what) for images, _ in batches]) if batches else []
        labels = torch.cat([torch.atleast_1d(_numbers(labels, what)) for _, labels in batches]) if batches else []
    elif isinstance(source, TorchDataset) and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        pairs = [_pair(source[index], what) for index in range(len(source))]
        images, labels = [image for image, _ in pairs], [label for _, label in pairs]
    else:
        raise IbrobustError(
            f"The {what} images are given as {a_type(source)}: give a pair (images, labels), a torch Dataset "
            "with a length, or a DataLoader."
        )
    found = images_of(images, what)
    return found, labels_of(labels, len(found), what)


def images_of(values: Any, what: str) -> Tensor:
    """Return images as (N, C, H, W) uint8 in [0, 255].

    They are a copy, so that a change of the values does not change them.

    Args:
        values: an array or a tensor, or a list of either or of Pillow's images: uint8 in [0, 255], or floats in [0, 1],
            which are rounded to 8 bits as in an image file. Of shape (N, H, W), (N, C, H, W) or (N, H, W, C), where C
            is 1 or 3.
        what: they are, to begin an error with.

    Raises:
        IbrobustError: they are not of that form.
    """
    images = _stacked(values, what)
    if len(images) == 0:
        raise IbrobustError(f"There are no {what} images: give at least one.")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in CHANNELS and images.shape[3] in CHANNELS:
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in CHANNELS:
        remedy = "drop the fourth channel, which is transparency" if 4 in images.shape[1:] else "give one of these"
        raise IbrobustError(
            f"The {what} images have the shape {tuple(images.shape)}, not (N, C, H, W), (N, H, W, C) or (N, H, W) with "
            f"1 or 3 channels: {remedy}."
        )
    return _eight_bits(images, what).contiguous()


def _stacked(values: Any, what: str) -> Tensor:
    try:
        if isinstance(values, (list, tuple)):
            grey = all(getattr(part, "mode", None) in ("1", "L") for part in values)  # of Pillow's
            parts = [_one(part, grey=grey, what=f"One of the {what} images") for part in values]
            sizes = {tuple(part.shape) for part in parts}
            if len(sizes) > 1:
                few = " and ".join(str(size) for size in sorted(sizes)[:2])
                raise IbrobustError(f"The {what} images have several shapes ({few}): bring all images to one size.")
            return torch.stack(parts) if parts else torch.empty(0)
        if isinstance(values, Tensor):
            # Floats are converted anyway; the caller may go on to change what is not.
            return values.detach().to("cpu", copy=values.dtype == torch.uint8)
        return tensor_of(values)
    except IbrobustError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise IbrobustError(
            f"The {what} images cannot be read as numbers ({_reason(error)}): give an array or a tensor of numbers."
        ) from error


def _one(part: Any, *, grey: bool, what: str) -> Tensor:
    if isinstance(part, Tensor):
        return part.detach().cpu()
    if hasattr(part, "convert"):  # a picture of Pillow's
        return tensor_of(part.convert("L") if grey else pixels_of(part, what))
    return tensor_of(part)


def _eight_bits(images: Tensor, what: str) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    if images.dtype == torch.uint16:
        levels = "images // 256" if images.numpy().max() > 255 else "images"  # torch has no maximum of them
        raise IbrobustError(f"The {what} images have 16 bits: give uint8, as ({levels}).astype('uint8').")
    if not images.is_floating_point():
        raise IbrobustError(
            f"The {what} images have the dtype {_name(images.dtype)}: give uint8 in [0, 255] or floats in [0, 1]."
        )
    low, high = float(images.min()), float(images.max())
    if math.isnan(low):  # the least of numbers is NaN if one of them is
        raise IbrobustError(f"The {what} images have pixels that are NaN: replace them, or leave these images out.")
    if not (low >= -ROUNDING and high <= 1.0 + ROUNDING):
        whole = low >= 0.0 and 2.0 < high <= 255.0
        remedy = "divide them by 255" if whole else "give them as they were before any normalisation"
        raise IbrobustError(
            f"The {what} images are floats from {low:g} to {high:g}, not in [0, 1]: {remedy}; "
            "ibrobust.normalized puts a normalisation inside the model."
        )
    return (images.double() * 255).round().clamp(0, 255).to(torch.uint8)


def labels_of(values: Any, count: int, what: str) -> Tensor:
    """Return labels as (N,) int64, which are a copy.

    Args:
        values: an array, a tensor or a list of whole numbers from 0, of shape (N,) or (N, 1).
        count: N, the number of images.
        what: they are of, to begin an error with.

    Raises:
        IbrobustError: they are not of that form.
    """
    labels = _numbers(values, what)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise IbrobustError(
            f"The {what} labels have the shape {tuple(labels.shape)}, not ({count},): give one whole number for each "
            "image, of one-hot labels labels.argmax(1)."
        )
    if len(labels) != count:
        raise IbrobustError(f"There are {count} {what} images and {len(labels)} labels: give one label for each image.")
    if labels.is_floating_point() or labels.is_complex():
        raise IbrobustError(f"The {what} labels have the dtype {_name(labels.dtype)}: give whole numbers from 0.")
    return labels.long()


def class_names_of(source: Any) -> tuple[str, ...] | None:
    """Return the class names that a torch Dataset or the one behind it carries, or None."""
    while source is not None and not isinstance(source, (tuple, list, Tensor, np.ndarray)):
        names = getattr(source, "classes", None)
        if isinstance(names, Sequence) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
        source = getattr(source, "dataset", None)  # of a Subset or a DataLoader
    return None


def numbered_classes(labels: Iterable[Tensor]) -> tuple[str, ...]:
    """Return "0", "1", ... for classes without names.

    Raises:
        IbrobustError: no image has the label 0.
    """
    every = torch.cat(list(labels))
    low, high = int(every.min()), int(every.max())
    if low > 0:
        raise IbrobustError(
            f"The labels go from {low} to {high}, and classes are counted from 0: give labels - {low}, or class_names "
            "if no image is of the first classes."
        )
    return tuple(str(label) for label in range(high + 1))


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names with the index after each that occurs twice, as "crane" does in ImageNet."""
    return tuple(f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names))


def _numbers(labels: Any, what: str) -> Tensor:
    try:
        if isinstance(labels, Tensor):
            return labels.detach().to("cpu", copy=True)
        if isinstance(labels, (list, tuple)):
            labels = [label.tolist() if isinstance(label, (Tensor, np.generic)) else label for label in labels]
        return tensor_of(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise IbrobustError(
            f"The {what} labels cannot be read as numbers ({_reason(error)}): give whole numbers from 0."
        ) from error


def _reason(error: Exception) -> str:
    """Return the text of an error in one line, without the list of all types that torch has."""
    return " ".join(str(error).split()).partition(". The only supported types")[0]


def _pair(item: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise IbrobustError(
            f"The {what} set gives {a_type(item)} where a pair (image, label) is needed: wrap it in one that does."
        )
    return item[0], item[1]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
