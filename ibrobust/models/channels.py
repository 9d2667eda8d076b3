"""The check that images have a model's channels: normalisation would repeat a single one."""

from __future__ import annotations

from torch import Tensor

from ibrobust.errors import IbrobustError


def require_channels(images: Tensor, channels: int) -> None:
    """Raise IbrobustError unless images (B, C, H, W) have so many channels.

    The modules that call it wrap it for torch.fx, which cannot trace a branch.
    """
    if images.dim() != 4 or images.shape[1] == channels:
        return
    remedy = f"give it images of {channels}"
    if images.shape[3] == channels:
        remedy = "give it images.permute(0, 3, 1, 2)"
    elif images.shape[1] == 1:
        remedy = f"give it images.expand(-1, {channels}, -1, -1)"
    elif channels == 1:
        remedy = "give it grey images, such as images.mean(1, keepdim=True)"
    raise IbrobustError(
        f"The images have shape {tuple(images.shape)}, and the model takes {channels} "
        f"channel{'' if channels == 1 else 's'}: {remedy}."
    )
