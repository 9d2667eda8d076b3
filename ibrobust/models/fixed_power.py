"""Latents of zero mean and unit power, by one scalar for all dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Share of a new batch in the running statistics, as in batch normalisation.
MOMENTUM = 0.1


class FixedPower(nn.Module):
    """Centres latents and divides them by the root mean square over the batch and all dimensions.

    z = (h - mean(h)) / sqrt(mean over batch and dimensions of (h - mean(h))^2). Unlike batch normalisation it has one
    scale for all dimensions, so an objective can choose how many of them to use; only the ratio of the signal's power
    to the noise is fixed. In evaluation mode the running statistics of training are used, and each image is encoded on
    its own.

    Args:
        latent_dim: D.
    """

    running_mean: Tensor
    running_power: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(latent_dim))
        self.register_buffer("running_power", torch.ones(()))

    def forward(self, latents: Tensor) -> Tensor:
        """Return latents (B, D) of zero mean and unit mean square over a training batch."""
        if latents.dtype != torch.float64:
            latents = latents.float()  # half precision would lose the small deviations from a large mean
        if not self.training:
            return (latents - self.running_mean) * self.running_power.rsqrt()
        mean = latents.mean(dim=0)
        centred = latents - mean
        power = centred.square().mean()
        with torch.no_grad():
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_power.lerp_(power, MOMENTUM)
        return centred * (power + torch.finfo(power.dtype).tiny).rsqrt()
