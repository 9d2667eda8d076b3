"""The conditional entropy bottleneck."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ibrobust.objectives.base import Loss, Objective
from ibrobust.objectives.gaussians import gaussian_kl, split_gaussian
from ibrobust.objectives.variational import checked_num_samples, sampled_cross_entropy


class ConditionalBottleneck(Objective):
    """min E_{e(z|x)}[-log c(y | z)] + beta KL(e(z | x) || b(z | y)), in nats (Fischer 2020, the variational CEB).

    The forward encoder e is a Gaussian with diagonal covariance, the backward encoder b one Gaussian with diagonal
    covariance for each class, learned, and the classifier c is linear. The divergence is exact, and its mean an upper
    bound on the superfluous information I[X;Z|Y], attained if b(z | y) = p(z | y). Fischer's trade-off is
    gamma = 1 / beta = exp(rho); beta = 1 is eq. (4) of Kirsch, Lyle, Gal 2020, min I[X;Z|Y] - I[Y;Z], up to H[Y].

    Args:
        latent_dim: D.
        num_classes: C.
        beta: weight of the superfluous information I[X;Z|Y].
        num_samples: samples of z for each image and step.
    """

    options: ClassVar[tuple[str, ...]] = ("beta", "num_samples")
    outputs_per_latent: ClassVar[int] = 2

    def __init__(self, *, latent_dim: int, num_classes: int, beta: float, num_samples: int = 1) -> None:
        super().__init__()
        self.beta = beta
        self.num_samples = checked_num_samples(num_samples)
        self.head: nn.Module = nn.Linear(latent_dim, num_classes)
        self.class_means = nn.Parameter(torch.zeros(num_classes, latent_dim))  # (C, D)
        self.class_log_stds = nn.Parameter(torch.zeros(num_classes, latent_dim))  # (C, D)

    def forward(self, latents: Tensor, labels: Tensor) -> Loss:
        """Return the loss of encoder outputs (B, 2 * D), means and log standard deviations, with labels (B,).

        The terms, in nats, are upper bounds: ``H[Y|Z]`` and ``I[X;Z|Y]``.
        """
        mean, log_std = split_gaussian(latents)
        decoding = sampled_cross_entropy(self.head, mean, log_std, labels, self.num_samples)
        superfluous = gaussian_kl(mean, log_std, self.class_means[labels], self.class_log_stds[labels]).mean()
        return Loss(decoding + self.beta * superfluous, {"H[Y|Z]": decoding, "I[X;Z|Y]": superfluous})
