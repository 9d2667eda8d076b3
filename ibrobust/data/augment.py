"""Random flips and padded crops of a whole batch at once, on the device the images are on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4  # pixels on each side


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
    """Return the images, each zero-padded, cropped at its own offset, and mirrored if its flip is set.

    Args:
        images: (B, C, H, W), any dtype.
        offsets: (B, 2) int64 rows and columns of the crops' upper left corners in the padded image, each in
            [0, 2 * PADDING]; (PADDING, PADDING) does not move an image.
        flips: (B,) bool; True mirrors left and right, after the crop.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (PADDING,) * 4)  # (B, C, H + 2p, W + 2p)
    rows = offsets[:, :1] + torch.arange(height, device=images.device)  # (B, H)
    columns = torch.arange(width, device=images.device).expand(batch, width)  # (B, W)
    columns = torch.where(flips[:, None], width - 1 - columns, columns) + offsets[:, 1:]  # (B, W)
    return padded[
        torch.arange(batch, device=images.device)[:, None, None, None],
        torch.arange(channels, device=images.device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]  # (B, C, H, W)


def draw_crops(count: int, generator: torch.Generator) -> Tensor:
    """Return (count, 2) int64 crop offsets, uniform on [0, 2 * PADDING]."""
    return torch.randint(0, 2 * PADDING + 1, (count, 2), generator=generator)


def draw_flips(count: int, generator: torch.Generator) -> Tensor:
    """Return (count,) bool, True with probability one half."""
    return torch.rand(count, generator=generator) < 0.5
