"""The k-nearest-neighbour entropy estimators."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ibrobust.errors import IbrobustError
from ibrobust.estimators.arguments import Labels, as_labels, as_points, require_finite, whole_number
from ibrobust.estimators.exact_search import lengths, rows_at_once
from ibrobust.estimators.neighbors import TILE, nearest_neighbors, nearest_within_classes

# Up to this many points on a GPU, H[Z | Y] comes from one matrix of all distances with the other classes masked: the
# host then never has to read the labels in a training step.
ONE_MATRIX_ON_GPU = 2048


def knn_entropy(
    z: Tensor, num_neighbors: int = 3, *, average: bool = False, chunk_size: int = TILE, validate: bool = True
) -> Tensor:
    """Return the Kozachenko-Leonenko estimate of the differential entropy of the points, a scalar in nats.

    H = psi(N) - psi(k) + log V_d + d / (2 N) * sum_i log r_k(i)^2, with r_k(i) the Euclidean distance from point i to
    its k-th nearest other point and V_d = pi^(d/2) / Gamma(d/2 + 1) the volume of the unit-radius ball (Kozachenko and
    Leonenko 1987; Kraskov et al. 2004, eq. 20; the squared form of Kirsch, Lyle, Gal 2020, eq. 13, with its constants
    corrected). The search is not differentiated; only the N * k chosen distances are (eq. 14).

    If two points coincide, their distance counts as eps / 2 of their distance from the origin, with eps that of the
    dtype given, because rounding can hide such a distance. It has no gradient. So the estimate is finite, but very low
    for duplicated points, and no gradient is infinite. All other distances are unchanged, however small they are. In
    half precision eps is large, so far from the origin the estimate of duplicated points can be high.

    Args:
        z: (N, D) points, any floating dtype; compared in float32, or in float64 if given so, never in autocast's type.
        num_neighbors: k, at least 1 and less than N.
        average: the mean of the estimates for 1..k instead of that for k. It is as consistent, and its gradient varies
            less, because it does not depend on one neighbour.
        chunk_size: edge of the tiles of the distance matrix. More than twice as many points are never compared in one
            matrix. The value does not depend on it.
        validate: check that all coordinates are finite. On a GPU the host has to wait for the answer, so training steps
            skip it: the estimate is then NaN instead of an error.

    Raises:
        IbrobustError: z is not (N, D) floating or not finite, k is not a whole number of at least 1, N <= k, or
            chunk_size < 1.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> round(float(ibrobust.knn_entropy(z)), 1)  # log(2 pi e) = 2.84
        2.8
    """
    z = as_points(z)
    num_neighbors, chunk_size = whole_number("num_neighbors", num_neighbors), whole_number("chunk_size", chunk_size)
    points = _compared(z, validate)
    if len(points) <= num_neighbors:
        raise IbrobustError(
            f"{len(z)} points are too few for {num_neighbors} neighbours: give more points, or a smaller k."
        )
    with torch.autocast(z.device.type, enabled=False):
        distances, neighbors = nearest_neighbors(points, num_neighbors, tile=_tile(chunk_size))
        log_distances = _log_distances(z, points, distances, neighbors, average=average)  # (N,)
        constant = _digamma(len(points)) - _mean_digamma(num_neighbors, average) + _log_volume(z.shape[1])
        return (constant + z.shape[1] * log_distances.mean()).to(points.dtype)


def conditional_knn_entropy(
    z: Tensor,
    labels: Labels,
    num_neighbors: int = 3,
    *,
    average: bool = False,
    chunk_size: int = TILE,
    validate: bool = True,
) -> Tensor:
    """Return the estimate of H[Z | Y] = sum_y n_y / N * H[Z | y], a scalar in nats.

    Each H[Z | y] is the `knn_entropy` of the n_y points of that class. The weights n_y / N are the plug-in estimate of
    p(y); with equally many points of each class, as in the paper (Kirsch, Lyle, Gal 2020), they are its 1 / C. Classes
    without points are ignored, and no class changes the estimate of another.

    Args:
        z: (N, D) points, as in `knn_entropy`.
        labels: (N,) classes: any integers or booleans, in a tensor, an array or a list.
        num_neighbors: k; every class that occurs needs more than k points.
        average: as in `knn_entropy`.
        chunk_size: as in `knn_entropy`.
        validate: as in `knn_entropy`, and check that every class has enough points; otherwise the estimate is NaN.

    Raises:
        IbrobustError: as `knn_entropy`, or labels are not (N,) integers, or a class has k points or fewer.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> labels = torch.arange(4000) % 2
        >>> far = z + 50.0 * labels[:, None]  # two classes of which each has log(2 pi e) = 2.84 nats
        >>> round(float(ibrobust.conditional_knn_entropy(far, labels)), 1)
        2.8
    """
    z = as_points(z)
    num_neighbors, chunk_size = whole_number("num_neighbors", num_neighbors), whole_number("chunk_size", chunk_size)
    points = _compared(z, validate)
    classes = as_labels(labels, len(z))
    if validate:
        check_class_sizes(classes, num_neighbors)
    classes = classes.to(points.device)
    with torch.autocast(z.device.type, enabled=False):
        one_matrix = points.is_cuda and len(points) <= ONE_MATRIX_ON_GPU
        distances, neighbors, sizes = nearest_within_classes(
            points, classes, num_neighbors, tile=_tile(chunk_size), one_matrix=one_matrix
        )
        log_distances = _log_distances(z, points, distances, neighbors, average=average)  # (N,)
        constants = sizes.double().digamma() - _mean_digamma(num_neighbors, average) + _log_volume(z.shape[1])
        # (N,), with H[Z | y] as mean over the points of a class
        entropies = constants + z.shape[1] * log_distances
        return entropies.where(sizes > num_neighbors, math.nan).mean().to(points.dtype)


def check_class_sizes(
    labels: Tensor,
    num_neighbors: int,
    *,
    memory: Tensor | None = None,
    remedy: str = "lower `num_neighbors`, or give more points (images) of each class",
) -> None:
    """Raise IbrobustError, with the remedy, if a class of the labels (N,) is too small for k neighbours.

    Points of a memory with labels (M,) count as well; a class that only the memory has needs no neighbours.
    """
    classes, counts = (labels if memory is None else torch.cat([labels, memory])).unique(return_counts=True)
    if memory is not None:
        needed = torch.isin(classes, labels)
        classes, counts = classes[needed], counts[needed]
    if len(classes) == 0 or int(counts.min()) > num_neighbors:
        return
    smallest = int(counts.argmin())
    raise IbrobustError(
        f"Class {int(classes[smallest])} has {int(counts[smallest])} "
        f"point{'' if int(counts[smallest]) == 1 else 's'}, too few for {num_neighbors} neighbours: "
        f"{remedy}."
    )


def _compared(z: Tensor, validate: bool) -> Tensor:
    """Return the points (N, D) in the dtype of the comparison, without a graph."""
    points = z.detach() if z.dtype == torch.float64 else z.detach().float()
    if validate:
        require_finite(points)
    return points


def _log_distances(z: Tensor, points: Tensor, distances: Tensor, neighbors: Tensor, *, average: bool) -> Tensor:
    """Return log r_k (N,), float64, of each point of z, or the mean of log r_1 .. log r_k, differentiable.

    Args:
        z: (N, D).
        points: (N, D), z without a graph.
        distances: (N, k) between those points.
        neighbors: (N, k), their indices.
        average: over 1..k.
    """
    if not average:
        distances, neighbors = distances[:, -1:], neighbors[:, -1:]
    counted = distances
    # Not on a GPU: the host would wait for the answer in every training step.
    if points.is_cuda or bool((distances == 0.0).any()):
        limits = torch.finfo(z.dtype)
        least = max(limits.tiny * limits.eps, torch.finfo(torch.float64).tiny)  # at the origin
        hidden = (0.5 * limits.eps * lengths(points)).clamp(min=least)  # (N,)
        counted = distances.where(distances != 0.0, hidden[:, None])
    result: Tensor = _MeanLog.apply(z, points, distances, neighbors, counted)
    return result


class _MeanLog(torch.autograd.Function):
    """The mean logarithm (N,) of known distances (N, k); distances of 0 get their stand-in, without gradient.

    A function of z (N, D); d log r / dz_i = (z_i - z_j) / r^2. Few differences are in memory at a time.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, points: Tensor, distances: Tensor, neighbors: Tensor, counted: Tensor) -> Tensor:
        ctx.save_for_backward(points, distances, neighbors)
        ctx.dtype = z.dtype
        return counted.log().mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        points, distances, neighbors = ctx.saved_tensors
        number = neighbors.shape[1]
        # Two factors, since the square of a small distance may be none that the dtype holds.
        most = torch.finfo(points.dtype).max / (4.0 * len(points))  # sums of so many do not overflow
        inverses = distances.reciprocal().where(distances != 0.0, 0.0).clamp(max=most)  # (N, k)
        weights = (gradient[:, None] / number * inverses).clamp(-most, most).to(points.dtype)
        inverses = inverses.to(points.dtype)
        result = torch.zeros_like(points)
        step = rows_at_once(points, neighbors)
        buffer = points.new_empty(min(step, len(points)) * number, points.shape[1])
        for start in range(0, len(points), step):
            rows = slice(start, start + step)
            chosen = neighbors[rows].flatten()  # (R k,)
            towards = torch.index_select(points, 0, chosen, out=buffer[: len(chosen)])
            pull = towards.view(-1, number, points.shape[1])  # (R, k, D), from here to the neighbours, weighted
            pull.sub_(points[rows, None, :]).mul_(inverses[rows, :, None]).mul_(weights[rows, :, None])
            result[rows] -= pull.sum(dim=1) if number > 1 else pull[:, 0]
            result.index_add_(0, chosen, towards)
        limit = torch.finfo(ctx.dtype).max
        return result.clamp_(-limit, limit).to(ctx.dtype), None, None, None, None


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
