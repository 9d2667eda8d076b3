"""Checks of the inputs of every attack: images in [0, 1] with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ibrobust.counts import MOST
from ibrobust.errors import IbrobustError
from ibrobust.from_numpy import tensor_of
from ibrobust.seeds import whole_number
from ibrobust.suggestions import a_type

ROUNDING = 1e-3  # floats that lie so little outside [0, 1] were rounded on the way
ArrayLike = Tensor | np.ndarray[Any, Any] | Sequence[Any]


def images_and_labels(images: ArrayLike, labels: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) and labels (N,), int64, as ordinary tensors without a gradient.

    Args:
        images: a tensor, a NumPy array or a list of either: floats in [0, 1] or uint8 in [0, 255].
        labels: the same, or a list of whole numbers.

    Raises:
        IbrobustError: they are not of that form, see `check_images_and_labels`.
    """
    _refuse_collection(images)
    images, labels = _as_tensor(images, "images"), _as_tensor(labels, "labels")
    if not labels.is_floating_point() and labels.dtype != torch.bool:
        labels = labels.long()  # torch has no minimum of uint16 and similar types
    check_images_and_labels(images, labels)
    return images, labels


def _refuse_collection(images: Any) -> None:
    """Raise IbrobustError for a data set or a loader in the place of its images."""
    if isinstance(images, (DataLoader, Dataset)):
        remedy = "give the .images and .labels of ibrobust.Dataset.of(it).test"
    elif hasattr(images, "test"):
        remedy = "give its .test.images and .test.labels"
    elif hasattr(images, "images") and hasattr(images, "labels"):
        remedy = "give its .images and .labels"
    else:
        return
    raise IbrobustError(f"The images are {a_type(images)}, which holds images and labels: {remedy}.")


def _as_tensor(values: ArrayLike, what: str) -> Tensor:
    # Tensors made in inference mode cannot be used in a gradient; a clone made outside can.
    with torch.inference_mode(False):
        try:
            if isinstance(values, (list, tuple)) and values and all(isinstance(value, Tensor) for value in values):
                values = torch.stack([value.detach() for value in values])
            if not isinstance(values, Tensor):
                return tensor_of(values)
        except (RuntimeError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())
            raise IbrobustError(
                f"The {what} cannot be converted to a tensor ({why}): give a tensor or a NumPy array."
            ) from error
        plain = values.detach().as_subclass(Tensor)
        return plain.clone() if plain.is_inference() else plain


def check_images_and_labels(images: Tensor, labels: Tensor) -> None:
    """Raise IbrobustError unless images are (N, C, H, W) in range and labels (N,) integers >= 0, with N > 0."""
    if images.dim() != 4 or len(images) == 0:
        raise IbrobustError(f"The images have shape {tuple(images.shape)}: (N, C, H, W) with N > 0 is needed.")
    if labels.shape != (len(images),) or labels.is_floating_point() or labels.dtype == torch.bool:
        remedy = "; of one-hot labels give labels.argmax(1)" if labels.dim() == 2 and labels.shape[1] > 1 else ""
        raise IbrobustError(
            f"The labels have shape {tuple(labels.shape)} and dtype {labels.dtype}: "
            f"({len(images)},) integers are needed{remedy}."
        )
    if int(labels.min()) < 0:
        first = int(labels.min())
        raise IbrobustError(
            f"The labels start at {first}, but classes are counted from 0: leave out images without a label, or give "
            f"labels + {-first} if {first} is the first class."
        )
    if images.dtype == torch.uint8:
        if int(images.max()) == 1:
            raise IbrobustError("The images have no value above 1 of 255: multiply them by 255.")
        return
    if not images.is_floating_point():
        raise IbrobustError(f"The images have dtype {images.dtype}: floats in [0, 1] or uint8 are needed.")
    if bad := int(images.isnan().flatten(1).any(dim=1).sum()):
        raise IbrobustError(
            f"{bad} of {len(images)} images have pixels that are NaN: leave these images out, or correct how they are "
            "read."
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0.0 and high <= 1.0):
        if low >= -ROUNDING and high <= 1.0 + ROUNDING:
            remedy = "Clamp them with images.clamp(0, 1)."
        elif low >= 0.0 and 2.0 < high <= 255.0:
            remedy = "Divide them by 255."
        else:
            remedy = "Put a normalisation inside the model with ibrobust.normalized(model, mean, std)."
        raise IbrobustError(f"The images range from {low:.8g} to {high:.8g}: values in [0, 1] are needed. {remedy}")


def check_batch_size(batch_size: SupportsIndex | float) -> int:
    """Return the batch size; raise IbrobustError unless it is a whole number from 1 to `MOST`."""
    size = whole_number(batch_size)
    if size is None or not 1 <= size <= MOST:
        raise IbrobustError(f"The batch size is {batch_size}: a whole number from 1 to {MOST} is needed.")
    return size


def unit_range(images: Tensor, like: Tensor) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] in the dtype and on the device of `like`; uint8 is divided by 255.

    Args:
        images: floats in [0, 1] or uint8 in [0, 255].
        like: the model's `model_reference`.
    """
    if images.dtype == torch.uint8:
        return (images.to(like.device).float() / 255.0).to(like.dtype)
    return images.to(like)
