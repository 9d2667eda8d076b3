"""Diagonal Gaussians: sampling, and the Kullback-Leibler divergence between two of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError


def split_gaussian(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (B, D) and log standard deviation (B, D), in float32 or wider, of encoder outputs (B, 2 * D).

    Raises:
        IbrobustError: the outputs cannot be divided into two halves.
    """
    if outputs.dim() != 2 or outputs.shape[1] % 2:
        raise IbrobustError(
            f"The encoder's outputs have shape {tuple(outputs.shape)}: (B, 2 * latent_dim), means and log standard "
            "deviations, are needed."
        )
    wide = outputs if outputs.dtype == torch.float64 else outputs.float()
    mean, log_std = wide.chunk(2, dim=1)
    return mean, log_std


def sample_gaussian(mean: Tensor, log_std: Tensor) -> Tensor:
    """Return one reparametrised sample (B, D) of each N(mean, exp(log_std)^2), differentiable in both."""
    return mean + log_std.exp() * torch.randn_like(mean)


def gaussian_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_std)^2) || N(other_mean, exp(other_log_std)^2)) (B,), in nats, exact.

    sum_d log(s' / s) + (s^2 + (m - m')^2) / (2 s'^2) - 1 / 2 over the dimensions (B, D); it is in [0, inf).

    Examples:
        >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
        >>> gaussian_kl(one, zero, zero, zero)
        tensor([1.])
    """
    ratio = log_std - other_log_std
    shift = (mean - other_mean) * (-other_log_std).exp()
    return (0.5 * ((2.0 * ratio).expm1() + shift.square()) - ratio).sum(dim=1)
