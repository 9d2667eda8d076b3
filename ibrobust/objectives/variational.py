"""The deep variational information bottleneck."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.objectives.base import Loss, Objective
from ibrobust.objectives.gaussians import gaussian_kl, sample_gaussian, split_gaussian


class VariationalBottleneck(Objective):
    """min E_{p(z|x)}[-log q(y | z)] + beta KL(p(z | x) || N(0, I)), in nats (Alemi et al. 2016, eq. 17).

    The encoder is a Gaussian with diagonal covariance, the decoder q is linear. The expectation is estimated by
    reparametrised samples, the divergence is exact, an upper bound on I[X;Z]. Kirsch, Lyle, Gal 2020 print its sign
    wrongly. A trained classifier decodes the mean; `SampledClassifier` averages over samples.

    Args:
        latent_dim: D.
        num_classes: C.
        beta: weight of the divergence.
        num_samples: samples of z for each image and step.
    """

    options: ClassVar[tuple[str, ...]] = ("beta", "num_samples")
    outputs_per_latent: ClassVar[int] = 2

    def __init__(self, *, latent_dim: int, num_classes: int, beta: float, num_samples: int = 1) -> None:
        super().__init__()
        self.beta = beta
        self.num_samples = checked_num_samples(num_samples)
        self.head: nn.Module = nn.Linear(latent_dim, num_classes)

    def forward(self, latents: Tensor, labels: Tensor) -> Loss:
        """Return the loss of encoder outputs (B, 2 * D), means and log standard deviations, with labels (B,).

        The terms, in nats, are upper bounds: ``H[Y|Z]`` and ``I[X;Z]``.
        """
        mean, log_std = split_gaussian(latents)
        decoding = sampled_cross_entropy(self.head, mean, log_std, labels, self.num_samples)
        rate = gaussian_kl(mean, log_std, torch.zeros_like(mean), torch.zeros_like(mean)).mean()
        return Loss(decoding + self.beta * rate, {"H[Y|Z]": decoding, "I[X;Z]": rate})


def sampled_cross_entropy(head: nn.Module, mean: Tensor, log_std: Tensor, labels: Tensor, num_samples: int) -> Tensor:
    """Return the mean of -log q(y | z), a scalar in nats, over `num_samples` samples z of each Gaussian (B, D)."""
    losses = [F.cross_entropy(head(sample_gaussian(mean, log_std)).float(), labels) for _ in range(num_samples)]
    return torch.stack(losses).mean()


def checked_num_samples(num_samples: int) -> int:
    if num_samples < 1:
        raise IbrobustError(f"num_samples is {num_samples}: at least 1 is needed.")
    return num_samples
