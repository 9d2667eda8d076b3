"""Classifiers whose boundary is known."""

from __future__ import annotations

import torch
from torch import nn


class Brightness(nn.Module):
    """Images (B, 1, 2, 2) -> two logits: the mean brightness less 0.5, and its negative."""

    def forward(self, images):
        score = images.flatten(1).mean(dim=1) - 0.5
        return torch.stack([score, -score], dim=1)


class NaNGradient(Brightness):
    """The same, with a NaN gradient for images whose first pixel is 0."""

    def forward(self, images):
        return super().forward(images) + 0.0 * images[:, :1, 0, 0].sqrt()


class NoisyPixel(nn.Module):
    """Images (B, 1, 1, 1) -> logits (B, 2): class 1 if the pixel is above 0.5, with noise of this size.

    At 0.5, each class has a probability of one half.
    """

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def forward(self, images):
        logit = images.flatten(1) - 0.5
        logit = logit + self.noise * torch.randn_like(logit)
        return torch.cat([-logit, logit], dim=1)
