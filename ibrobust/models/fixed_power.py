"""Latents of zero mean and unit power, by one scalar for all dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Least share of a new batch in the running statistics, as in batch normalisation.
MOMENTUM = 0.1


class FixedPower(nn.Module):
    """Centres latents and divides them by the root mean square over the batch and all dimensions.

    z = (h - mean(h)) / sqrt(mean over batch and dimensions of (h - mean(h))^2). Unlike batch normalisation it has one
    scale for all dimensions, so an objective can choose how many of them to use; only the ratio of the signal's power
    to the noise is fixed. In evaluation mode the running statistics of training are used, and each image is encoded on
    its own. They are the mean over the first ten batches, and then follow the batches with a momentum of 0.1.

    Args:
        latent_dim: D.
    """

    running_mean: Tensor
    running_power: Tensor
    num_batches: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(latent_dim))
        self.register_buffer("running_power", torch.ones(()))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))

    def forward(self, latents: Tensor) -> Tensor:
        """Return latents (B, D) of zero mean and unit mean square over a training batch."""
        if latents.dtype != torch.float64:
            latents = latents.float()  # half precision would lose the small deviations from a large mean
        if not self.training:
            return (latents - self.running_mean) * _inverse_root(self.running_power)
        mean = latents.mean(dim=0)
        centred = latents - mean
        power = centred.square().mean()
        with torch.no_grad():
            self.num_batches.add_(1)
            # The initial values are of no batch, so they get no weight.
            weight = self.num_batches.to(power.dtype).reciprocal().clamp(min=MOMENTUM)
            self.running_mean.lerp_(mean, weight)
            self.running_power.lerp_(power, weight)
        return centred * _inverse_root(power)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # Models of earlier versions have no such number, and their statistics are of many batches.
        state_dict.setdefault(f"{prefix}num_batches", torch.tensor(round(1 / MOMENTUM)))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _inverse_root(power: Tensor) -> Tensor:
    return (power + torch.finfo(power.dtype).tiny).rsqrt()  # also of no power, where all latents coincide
