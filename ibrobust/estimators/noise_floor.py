"""The noise floor: the kNN entropy estimate for noise with a known entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from ibrobust.errors import IbrobustError
from ibrobust.estimators.arguments import whole_number
from ibrobust.estimators.entropy import knn_entropy

ZERO_ENTROPY_SIGMA = math.sqrt(1.0 / (2.0 * math.pi * math.e))

# Total number of samples over all repetitions, and minimum number of repetitions.
SAMPLES = 4096
FEWEST_REPEATS = 4


@dataclass(frozen=True)
class EntropyBias:
    """The estimate for `count` samples of N(0, sigma^2 I), compared with the true entropy.

    Attributes:
        floor: mean estimate in nats; latents with this noise are not expected to have a lower estimate.
        bias: floor minus the true entropy, in nats. It does not depend on sigma.
        standard_error: of both, in nats.
    """

    floor: float
    bias: float
    standard_error: float


def entropy_bias(
    count: int,
    dim: int,
    num_neighbors: int = 3,
    *,
    sigma: float = ZERO_ENTROPY_SIGMA,
    average: bool = False,
    seed: int = 0,
) -> EntropyBias:
    """Return the noise floor and bias of `knn_entropy` for `count` samples of isotropic Gaussian noise.

    In many dimensions the bias is large and falls slowly with the number of samples, so that estimates from different
    numbers (H[Z] of N and H[Z | Y] of N / C) carry different biases. Each repetition's estimate is compared with the
    sample's own mean of -log p(z), whose expectation is the true entropy; this removes most of the sampling error. The
    same arguments give the same numbers; results are cached in memory.

    Args:
        count: N.
        dim: D.
        num_neighbors: k.
        sigma: standard deviation of the noise per dimension; by default that of zero-entropy noise.
        average: as in `knn_entropy`.
        seed: of the draws; the global random state is not changed.

    Raises:
        IbrobustError: count <= num_neighbors, count, dim or num_neighbors are not whole numbers of at least 1, or sigma
            is not positive.

    Examples:
        >>> 60.0 < entropy_bias(500, 256).floor < 70.0  # where the true entropy is 0
        True
    """
    count, num_neighbors = whole_number("count", count), whole_number("num_neighbors", num_neighbors)
    dim = whole_number("dim", dim)
    if dim < 1 or not (math.isfinite(sigma) and sigma > 0):
        raise IbrobustError(f"dim is {dim} and sigma {sigma}: at least one dimension and a positive sigma are needed.")
    bias, standard_error = _unit_bias(count, dim, num_neighbors, average, seed)
    true = 0.5 * dim * math.log(2.0 * math.pi * math.e * sigma**2)
    return EntropyBias(floor=true + bias, bias=bias, standard_error=standard_error)


@lru_cache(maxsize=1024)
def _unit_bias(count: int, dim: int, num_neighbors: int, average: bool, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(max(FEWEST_REPEATS, SAMPLES // max(1, count))):
        z = torch.randn(count, dim, generator=generator, dtype=torch.float32)
        surprise = 0.5 * (dim * math.log(2.0 * math.pi) + float(z.double().square().sum()) / max(1, count))
        errors.append(float(knn_entropy(z, num_neighbors, average=average)) - surprise)
    spread = torch.tensor(errors, dtype=torch.float64)
    return float(spread.mean()), float(spread.std() / math.sqrt(len(errors)))
