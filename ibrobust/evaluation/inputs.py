"""What every attack takes: images in [0, 1] with their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError


def check_images_and_labels(images: Tensor, labels: Tensor) -> None:
    """Raise IbrobustError unless images are (N, C, H, W) in range and labels (N,) integers >= 0, with N > 0."""
    if images.dim() != 4 or len(images) == 0:
        raise IbrobustError(f"The images have shape {tuple(images.shape)}: (N, C, H, W) with N > 0 is needed.")
    if labels.shape != (len(images),) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise IbrobustError(
            f"The labels have shape {tuple(labels.shape)} and dtype {labels.dtype}: "
            f"({len(images)},) integers are needed."
        )
    if int(labels.min()) < 0:
        raise IbrobustError(f"The labels begin at {int(labels.min())}: classes are counted from 0.")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise IbrobustError(f"The images have dtype {images.dtype}: floats in [0, 1] or uint8 are needed.")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0.0 and high <= 1.0):  # NaN fails as well
        raise IbrobustError(
            f"The images range from {low:g} to {high:g}: values in [0, 1] are needed, with any normalisation "
            "inside the model."
        )


def check_batch_size(batch_size: int) -> None:
    """Raise IbrobustError unless the batch size is at least 1."""
    if batch_size < 1:
        raise IbrobustError(f"The batch size is {batch_size}: at least 1 is needed.")


def check_seed(seed: int) -> None:
    """Raise IbrobustError unless the seed is one that torch takes."""
    if not 0 <= seed < 2**63:
        raise IbrobustError(f"The seed is {seed}: a whole number from 0 to 2^63 - 1 is needed.")


def unit_range(images: Tensor, like: Tensor) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] in the dtype and on the device of `like`; uint8 is divided by 255.

    Args:
        images: floats in [0, 1] or uint8 in [0, 255].
        like: what `model_reference` gives for the model that is to take them.
    """
    if images.dtype == torch.uint8:
        return (images.to(like.device).float() / 255.0).to(like.dtype)
    return images.to(like)
