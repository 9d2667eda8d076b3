"""A decoder with one full-covariance Gaussian for each class, fitted in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.full_precision import default_dtype

RIDGE = 1e-4

# The gradient of cross-entropy is the difference of softmax probabilities from 0 and 1. At a margin of m nats between
# the two highest logits it is about exp(-m): float32 keeps three digits of it at 10 nats, none from 17 nats on, and it
# is exactly zero beyond 104.
LARGEST_MARGIN = 10.0
MARGIN_QUANTILE = 0.99


class GaussianMixtureDecoder(nn.Module):
    """Logits are log N(z; mu_y, Sigma_y) + log (C p_y) in nats, divided by a temperature; p_y is the class's prior.

    The softmax at temperature 1 is the posterior p(y | z). With equal priors, as in CIFAR-10, the logits are the
    classes' log-likelihoods. The temperature divides all logits alike and so changes no prediction; see
    `margin_temperature` for why it is there.
    """

    means: Tensor
    whitening: Tensor
    log_normalizers: Tensor
    temperature: Tensor

    def __init__(self, latent_dim: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_classes, latent_dim))  # (C, D)
        # Inverse Cholesky factors: |W (z - mu)|^2 is the squared Mahalanobis distance.
        self.register_buffer("whitening", torch.eye(latent_dim).repeat(num_classes, 1, 1))  # (C, D, D)
        self.register_buffer("log_normalizers", torch.zeros(num_classes))  # (C,)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, latents: Tensor) -> Tensor:
        """Return logits (B, C) in nats for latents (B, D)."""
        offsets = latents[:, None, :] - self.means  # (B, C, D)
        white = torch.einsum("cij,bcj->bci", self.whitening, offsets)  # (B, C, D)
        return (self.log_normalizers - 0.5 * white.square().sum(-1)) / self.temperature  # (B, C)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        found = state_dict.get(f"{prefix}whitening")
        if found is not None and found.dim() == 2:
            state_dict[f"{prefix}whitening"] = unpack_triangles(found)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def pack_triangles(factors: Tensor) -> Tensor:
    """Return (C, D (D + 1) / 2), lower triangles (C, D, D) row by row without the zeros above them."""
    rows, columns = torch.tril_indices(factors.shape[1], factors.shape[1], device=factors.device)
    return factors[:, rows, columns]


def unpack_triangles(packed: Tensor) -> Tensor:
    """Return lower triangles (C, D, D) of what `pack_triangles` gave."""
    dim = (math.isqrt(8 * packed.shape[1] + 1) - 1) // 2
    factors = packed.new_zeros(len(packed), dim, dim)
    rows, columns = torch.tril_indices(dim, dim, device=packed.device)
    # If the size is wrong, loading the module fails with a clear error.
    factors[:, rows, columns] = packed[:, : len(rows)]
    return factors


@default_dtype(torch.float32)
def fit_gaussian_mixture(
    latents: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    noise_variance: float = 0.0,
    ridge: float = RIDGE,
    attackable: bool = True,
) -> GaussianMixtureDecoder:
    """Return the decoder whose Gaussians have each class's mean and regularised covariance.

    Sigma_y = S_y + (noise_variance + ridge * mean_y tr(S_y) / D) I, with S_y the maximum-likelihood covariance of the
    clean latents. The added term is the same for all classes: if the latents fill only a subspace, it is the whole
    variance in the other dimensions, and a different term per class would decide the class. For an encoder trained with
    latent noise, the decoder is fitted with the variance of that noise. This is the covariance of the noisy latents in
    expectation, so no noise is drawn. The priors are the classes' shares of the latents.

    Args:
        latents: (N, D) clean latents.
        labels: (N,) int64.
        num_classes: C.
        noise_variance: variance per dimension of the encoder's training noise.
        ridge: share of the mean variance, over dimensions and classes, that is added, so that a class with fewer
            images than dimensions, or a collapsed one, still has an invertible covariance.
        attackable: set the temperature with `margin_temperature`; otherwise it is 1.

    Raises:
        IbrobustError: a class has fewer than 2 latents, or its latents are all alike and nothing regularises them.
    """
    device = latents.device
    points = latents.detach().double()
    dim = points.shape[1]
    decoder = GaussianMixtureDecoder(dim, num_classes).to(device)
    means, covariances, priors = [], [], []
    for label in range(num_classes):
        members = points[labels == label]
        if len(members) < 2:
            raise IbrobustError(
                f"Class {label} has {len(members)} training images: a Gaussian mixture needs at least 2 of each class."
            )
        means.append(members.mean(dim=0))
        centred = members - means[-1]
        covariances.append(centred.T @ centred / len(members))
        priors.append(len(members) * num_classes / len(points))  # in units of 1 / C: equal ones change no logit
    added = noise_variance + ridge * float(torch.stack([own.diagonal() for own in covariances]).mean())
    for label, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        covariance.diagonal().add_(added)
        factor, info = torch.linalg.cholesky_ex(covariance)
        if int(info) != 0:
            raise IbrobustError(
                f"The covariance of class {label} is not positive definite, although {added:.3g} was added to its "
                "diagonal: raise the ridge."
            )
        identity = torch.eye(dim, dtype=torch.float64, device=device)
        decoder.means[label] = mean
        decoder.whitening[label] = torch.linalg.solve_triangular(factor, identity, upper=False)
        log_density = -0.5 * dim * math.log(2.0 * math.pi) - factor.diagonal().log().sum()
        decoder.log_normalizers[label] = log_density + math.log(priors[label])
    if attackable:
        logits = torch.cat([decoder(part) for part in torch.split(latents.detach().float(), 1000)])
        decoder.temperature.fill_(margin_temperature(logits))
    return decoder


def margin_temperature(logits: Tensor) -> float:
    """Return the temperature, at least 1, for which 99% of the logits have a margin of 10 nats or less.

    A Gaussian in 256 dimensions separates classes by log-likelihoods of tens to hundreds of nats. The gradient of
    cross-entropy then vanishes in float32, and every attack that follows it leaves the images unchanged: the model
    looks robust but is not (Korshunova et al. 2021). Dividing by a temperature brings the gradient back and changes no
    prediction.

    Args:
        logits: (N, C) at temperature 1, in nats.
    """
    top = logits.topk(2, dim=1).values
    margin = float((top[:, 0] - top[:, 1]).double().quantile(MARGIN_QUANTILE))
    return max(1.0, margin / LARGEST_MARGIN)
