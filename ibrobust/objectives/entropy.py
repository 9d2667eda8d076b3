"""The k-nearest-neighbour entropy estimators, and nothing else."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ibrobust.errors import IbrobustError
from ibrobust.objectives.neighbors import TILE, nearest_neighbors, nearest_within_classes, rows_at_once

# Points that coincide have the distance 0 and the log-distance minus infinity. A squared distance counts as at least
# this share of the points' mean squared distance from their centre: about what float32 can still tell apart.
SMALLEST_SHARE = 1e-12

# Powers of two up to this have a reciprocal that is a normal number in float32 as well.
LARGEST_EXPONENT = 120

# Up to this many points on a GPU, H[Z | Y] comes from one matrix of all distances with the other classes masked: the
# host never has to look at the labels in a training step then.
ONE_MATRIX_ON_GPU = 2048


def knn_entropy(
    z: Tensor, num_neighbors: int = 3, *, average: bool = False, chunk_size: int = TILE, validate: bool = True
) -> Tensor:
    """Return the Kozachenko-Leonenko estimate of the differential entropy of the points, a scalar in nats.

    H = psi(N) - psi(k) + log V_d + d / (2 N) * sum_i log r_k(i)^2, with r_k(i) the Euclidean distance from point i to
    its k-th nearest other point and V_d = pi^(d/2) / Gamma(d/2 + 1) the volume of the unit-radius ball (Kozachenko and
    Leonenko 1987; Kraskov et al. 2004, eq. 20; the squared form of Kirsch, Lyle, Gal 2020, eq. 13, with its constants
    corrected). Neighbours are found without a graph; only the N * k chosen distances are differentiated, eq. 14.

    Coinciding points: a squared distance below `SMALLEST_SHARE` of the mean squared distance from the centre (below the
    smallest normal number where all points coincide) counts as that and has no gradient. So the estimate is finite, for
    duplicated points very low, and no gradient is infinite.

    Args:
        z: (N, D) points, any floating dtype; computed in float32, or float64 if given so, never in autocast's type.
        num_neighbors: k, at least 1 and less than N.
        average: the mean of the estimates for 1..k in place of that for k. It is as consistent, and its gradient varies
            less, because it does not hang on one neighbour.
        chunk_size: edge of the tiles of the distance matrix that are held at once, beyond twice of which it is never
            held as a whole. The value does not depend on it.
        validate: look whether all coordinates are finite. On a GPU the host has to wait for the answer, so a training
            step leaves it out: the estimate is NaN then where it would have raised.

    Raises:
        IbrobustError: z is not (N, D) floating or not finite, k < 1, N <= k, or chunk_size < 1.
    """
    points, scale = _checked(z, num_neighbors, chunk_size, validate)
    if len(points) <= num_neighbors:
        raise IbrobustError(f"{len(z)} points are too few for {num_neighbors} neighbours: more points, or a smaller k.")
    with torch.autocast(z.device.type, enabled=False):
        distances, neighbors = nearest_neighbors(points, num_neighbors, tile=_tile(chunk_size))
        log_distances = _log_distances(z, points, scale, distances, neighbors, average=average)  # (N,)
        constant = _digamma(len(points)) - _mean_digamma(num_neighbors, average) + _log_volume(z.shape[1])
        return constant + 0.5 * z.shape[1] * log_distances.mean()


def conditional_knn_entropy(
    z: Tensor,
    labels: Tensor,
    num_neighbors: int = 3,
    *,
    average: bool = False,
    chunk_size: int = TILE,
    validate: bool = True,
) -> Tensor:
    """Return the estimate of H[Z | Y] = sum_y n_y / N * H[Z | y], a scalar in nats.

    Each H[Z | y] is the `knn_entropy` of the n_y points of that class. The weights n_y / N are the plug-in estimate of
    p(y); with equally many points of each class, as in the paper, they are its 1 / C. Classes without points count for
    nothing. What counts as coinciding is measured by the spread of all the points, so that a class that has collapsed
    to one point is as far down as any other.

    Args:
        z: (N, D) points.
        labels: (N,) integer classes, any integers.
        num_neighbors: k; every class that is there needs more than k points.
        average: as in `knn_entropy`.
        chunk_size: as in `knn_entropy`.
        validate: as in `knn_entropy`, and look whether every class has points enough; the estimate is NaN where not.

    Raises:
        IbrobustError: as `knn_entropy`, or labels are not (N,) integers, or a class has k points or fewer.
    """
    points, scale = _checked(z, num_neighbors, chunk_size, validate)
    if labels.shape != (len(z),) or labels.is_floating_point() or labels.is_complex():
        raise IbrobustError(
            f"The labels have shape {tuple(labels.shape)} and dtype {labels.dtype}: ({len(z)},) integers are needed."
        )
    if validate:
        check_class_sizes(labels, num_neighbors)
    labels = labels.to(points.device)
    with torch.autocast(z.device.type, enabled=False):
        one_matrix = points.is_cuda and len(points) <= ONE_MATRIX_ON_GPU
        distances, neighbors, sizes = nearest_within_classes(
            points, labels, num_neighbors, tile=_tile(chunk_size), one_matrix=one_matrix
        )
        log_distances = _log_distances(z, points, scale, distances, neighbors, average=average)  # (N,)
        sizes = sizes.to(points.dtype)
        constants = sizes.digamma() - _mean_digamma(num_neighbors, average) + _log_volume(z.shape[1])
        # (N,), with H[Z | y] as mean over the points of a class
        entropies = constants + 0.5 * z.shape[1] * log_distances
        return entropies.where(sizes > num_neighbors, math.nan).mean()


def check_class_sizes(labels: Tensor, num_neighbors: int) -> None:
    """Raise IbrobustError, with the class and the remedy, where one has too few of the labels (N,) for k neighbours."""
    classes, counts = labels.unique(return_counts=True)
    if len(classes) == 0 or int(counts.min()) > num_neighbors:
        return
    smallest = int(counts.argmin())
    raise IbrobustError(
        f"Class {int(classes[smallest])} has {int(counts[smallest])} points, too few for {num_neighbors} neighbours: "
        "raise the batch size, balance the batches, or lower num_neighbors."
    )


def _checked(z: Tensor, num_neighbors: int, chunk_size: int, validate: bool) -> tuple[Tensor, Tensor]:
    """Return the points in the dtype to compute in, times a power of two, without a graph, and that power, a scalar.

    The product is exact, and keeps squares from overflow and underflow.
    """
    if z.dim() != 2 or not z.is_floating_point() or z.shape[1] < 1:
        raise IbrobustError(f"The points have shape {tuple(z.shape)} and dtype {z.dtype}: (N, D) floats are needed.")
    if num_neighbors < 1:
        raise IbrobustError(f"num_neighbors is {num_neighbors}: at least 1 is needed.")
    if chunk_size < 1:
        raise IbrobustError(f"chunk_size is {chunk_size}: at least 1 is needed.")
    if len(z) == 0:
        raise IbrobustError("There are no points.")
    points = z.detach() if z.dtype == torch.float64 else z.detach().float()
    largest = points.abs().amax()  # NaN where any coordinate is
    if validate and not math.isfinite(float(largest)):
        bad = int((~z.detach().isfinite().all(dim=1)).sum())
        raise IbrobustError(f"{bad} of the {len(z)} points have NaN or infinite coordinates: leave them out.")
    exponent = torch.frexp(largest).exponent.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    # The power by itself first: ldexp of all points would take one for each.
    scale = torch.ldexp(largest.new_ones(()), -exponent)
    return points * scale, scale


def _log_distances(
    z: Tensor, points: Tensor, scale: Tensor, distances: Tensor, neighbors: Tensor, *, average: bool
) -> Tensor:
    """Return log r_k^2 (N,) of each point of z, or the mean of log r_1^2 .. log r_k^2, differentiable.

    Args:
        z: (N, D).
        points: (N, D), z times the scale.
        scale: scalar.
        distances: (N, k) squared, between those points.
        neighbors: (N, k), their indices.
        average: over 1..k.
    """
    if not average:
        distances, neighbors = distances[:, -1:], neighbors[:, -1:]
    spread = torch.linalg.vector_norm(points - points.mean(dim=0)).square() / len(points)
    smallest = (SMALLEST_SHARE * spread).clamp(min=torch.finfo(points.dtype).tiny)
    scaled: Tensor = _MeanLog.apply(z, points, scale, distances, neighbors, smallest)
    return scaled - 2.0 * scale.log()


class _MeanLog(torch.autograd.Function):
    """Mean logarithm (N,) of known squared distances (N, k), those below `smallest` counting as that.

    A function of z (N, D), of which the points are `scale` times as large; d log r^2 / dz_i = 2 (z_i - z_j) / r^2. Few
    differences are in memory at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, points: Tensor, scale: Tensor, distances: Tensor, neighbors: Tensor, smallest: Tensor
    ) -> Tensor:
        ctx.save_for_backward(points, scale, distances, neighbors, smallest)
        ctx.dtype = z.dtype
        return torch.maximum(distances, smallest).log_().mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        points, scale, distances, neighbors, smallest = ctx.saved_tensors
        number = neighbors.shape[1]
        weights = (2.0 / number * gradient[:, None] / distances).where(distances > smallest, 0.0)  # (N, k)
        result = torch.zeros_like(points)
        step = rows_at_once(points, neighbors)
        buffer = points.new_empty(min(step, len(points)) * number, points.shape[1])
        for start in range(0, len(points), step):
            rows = slice(start, start + step)
            chosen = neighbors[rows].flatten()  # (R k,)
            towards = torch.index_select(points, 0, chosen, out=buffer[: len(chosen)])
            pull = towards.view(-1, number, points.shape[1])  # (R, k, D), from here to the neighbours, weighted
            pull.sub_(points[rows, None, :]).mul_(weights[rows, :, None])
            result[rows] -= pull.sum(dim=1) if number > 1 else pull[:, 0]
            result.index_add_(0, chosen, towards)
        return result.mul_(scale).to(ctx.dtype), None, None, None, None, None


def _log_volume(dim: int) -> float:
    """Return log V_d of the unit-radius ball."""
    return 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1.0)


@cache
def _digamma(n: int) -> float:
    """Return psi(n) for a positive integer."""
    return float(torch.digamma(torch.tensor(float(n), dtype=torch.float64)))


@cache
def _mean_digamma(num_neighbors: int, average: bool) -> float:
    """Return psi(k), or the mean of psi(1) .. psi(k)."""
    lowest = 1 if average else num_neighbors
    return float(torch.digamma(torch.arange(lowest, num_neighbors + 1, dtype=torch.float64)).mean())


def _tile(chunk_size: int) -> int:
    return -(-chunk_size // 32) * 32
