"""A binary classifier with one logit, as a classifier with two."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwoLogits(nn.Module):
    """Images (B, C, H, W) -> logits (B, 2): 0 and z, whose cross-entropy is the binary cross-entropy of z."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        logit = self.model(images).view(-1, 1)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def two_logits(model: nn.Module) -> nn.Module:
    """Return a classifier of the classes 0 and 1 from one with a single logit, which is positive for class 1.

    Args:
        model: images (B, C, H, W) -> logits (B,) or (B, 1), before any sigmoid.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = ibrobust.two_logits(torch.nn.Flatten())  # an image of one pixel: the pixel is the logit
        >>> model(torch.tensor([[[[0.5]]]]))
        tensor([[0.0000, 0.5000]])
    """
    return TwoLogits(model)
