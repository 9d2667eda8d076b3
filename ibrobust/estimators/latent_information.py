"""Information in a classifier's latents: their entropies, and the remaining uncertainty about the label."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ibrobust.estimators import conditional_knn_entropy, entropy_bias, knn_entropy, mutual_information
from ibrobust.estimators.arguments import as_labels, as_points
from ibrobust.models import ZERO_ENTROPY_VARIANCE, fit_resfc
from ibrobust.seeds import derive_seed

# The decoder of the label information sees this many latents, with fresh noise for each batch if there is noise.
DECODER_BATCH = 250
DECODER_STEPS = 400


@dataclass(frozen=True)
class LatentInformation:
    """Entropies of latents Z with labels Y, all in nats.

    Attributes:
        entropy: H[Z] by the kNN estimator, which is I[X; Z] if the encoder is deterministic and the noise has no
            entropy.
        conditional_entropy: H[Z | Y], likewise. Its bias is that of smaller samples: do not subtract it from H[Z].
        mutual_information: I[Y; Z] from matched neighbourhoods.
        label_information: an upper bound of I[X; Y | Z] = H[Y | Z], see `decoder_cross_entropy`.
        noise: whether zero-entropy noise was added to the latents.
        noise_floor: the estimate for the noise alone; None without noise.
        num_points: N.
        num_neighbors: k.
    """

    entropy: float
    conditional_entropy: float
    mutual_information: float
    label_information: float
    noise: bool
    noise_floor: float | None
    num_points: int
    num_neighbors: int

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as a dictionary for JSON."""
        return asdict(self)


def latent_information(
    latents: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    noise: bool = True,
    num_neighbors: int = 3,
    units: int = 256,
    seed: int = 0,
) -> LatentInformation:
    """Return the entropies of latents (N, D), as `ImageClassifier.latents` gives them, with labels (N,).

    Two encoders can be compared if noise is added for both: without it, entropies fall without bound as latents shrink.

    Args:
        latents: (N, D), any floating dtype, without noise. Entropies are computed as in `knn_entropy`, the decoder in
            float32.
        labels: (N,) integers in [0, num_classes).
        num_classes: C.
        noise: add zero-entropy noise, N(0, I / (2 pi e)).
        num_neighbors: k; every class needs more than k points.
        units: of the residual fully-connected decoder behind `label_information`.
        seed: of the noise and of that decoder.

    Raises:
        IbrobustError: shapes or dtypes are wrong, a latent is not finite, or a class has k points or fewer.
    """
    latents = as_points(latents)
    count, dim = latents.shape
    labels = as_labels(labels, count).to(latents.device)
    points = with_noise(latents, seed, "entropy") if noise else latents
    return LatentInformation(
        entropy=float(knn_entropy(points, num_neighbors)),
        conditional_entropy=float(conditional_knn_entropy(points, labels, num_neighbors)),
        mutual_information=mutual_information(points, labels, num_neighbors).nats,
        label_information=decoder_cross_entropy(latents, labels, num_classes, noise=noise, units=units, seed=seed),
        noise=noise,
        noise_floor=entropy_bias(count, dim, num_neighbors).floor if noise else None,
        num_points=count,
        num_neighbors=num_neighbors,
    )


def decoder_cross_entropy(
    latents: Tensor, labels: Tensor, num_classes: int, *, noise: bool, units: int, seed: int
) -> float:
    """Return the cross-entropy in nats of a ResFC decoder fitted to the same latents (N, D) and labels (N,).

    It is an upper bound of H[Y | Z] if Z is one of these latents, chosen uniformly, with zero-entropy noise if `noise`.
    The decoder is fitted with many draws of the noise per latent and evaluated with another draw: a decoder that had
    memorised the draws would give no bound.
    """
    latents = latents.float()  # before the noise: the draws are then the same for latents of every dtype
    repeats = math.ceil(DECODER_STEPS * DECODER_BATCH / len(latents))
    if noise:
        points = with_noise(latents.repeat(repeats, 1), seed, "fit")  # (repeats * N, D)
        decoder = fit_resfc(points, labels.repeat(repeats), num_classes, seed=seed, units=units, epochs=1)
        judged = with_noise(latents, seed, "judge")
    else:
        decoder = fit_resfc(latents, labels, num_classes, seed=seed, units=units, epochs=repeats)
        judged = latents
    with torch.no_grad():
        return float(F.cross_entropy(decoder(judged), labels))


def with_noise(latents: Tensor, seed: int, purpose: str) -> Tensor:
    """Return latents (N, D) with zero-entropy noise, drawn from the seed and the purpose."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "information plane", purpose))
    noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32).to(latents.device)
    return latents + math.sqrt(ZERO_ENTROPY_VARIANCE) * noise
