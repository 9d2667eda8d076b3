"""The k-nearest-neighbour entropy estimators, and nothing else."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError

# Points that coincide have the distance 0 and the log-distance minus infinity. Squared distances are counted as at least
# this share of the points' mean squared distance from their centre: about what float32 can still tell apart.
SMALLEST_SHARE = 1e-12

# Rows of the distance matrix that are held at once.
CHUNK_ROWS = 1024


def knn_entropy(z: Tensor, num_neighbors: int = 3, *, average: bool = False, chunk_rows: int = CHUNK_ROWS) -> Tensor:
    """Return the Kozachenko-Leonenko estimate of the differential entropy of the points, a scalar in nats.

    H = psi(N) - psi(k) + log V_d + d / (2 N) * sum_i log r_k(i)^2, with r_k(i) the Euclidean distance from point i to
    its k-th nearest other point and V_d = pi^(d/2) / Gamma(d/2 + 1) the volume of the unit-radius ball (Kozachenko and
    Leonenko 1987; Kraskov et al. 2004, eq. 20; the squared form of Kirsch, Lyle, Gal 2020, eq. 13, with its constants
    corrected). Neighbours are found without a graph; only the N * k chosen distances are differentiated, eq. 14.

    Coinciding points: a squared distance below `SMALLEST_SHARE` of the mean squared distance from the centre counts as
    that, with no gradient, so that the estimate is finite. Where all points are equal the estimate is minus infinity.
    A point with NaN or infinite coordinates makes the estimate NaN or infinite: it is not looked for here, since that
    would wait for the device in every training step.

    Args:
        z: (N, D) points, any floating dtype; computed in float32, or float64 if given so. N > k.
        num_neighbors: k, at least 1.
        average: the mean of the estimates for 1..k in place of that for k. It is as consistent, and varies less.
        chunk_rows: rows of the distance matrix to hold at once; the value does not depend on it.

    Raises:
        IbrobustError: z is not (N, D) floating, k < 1, or N <= k.
    """
    _check(z, num_neighbors)
    points = z if z.dtype == torch.float64 else z.float()
    with torch.autocast(z.device.type, enabled=False):
        squared = _squared_distances(points, num_neighbors, chunk_rows)  # (N, k), ascending
        return _estimate(squared, z.shape[1], num_neighbors, average=average)


def conditional_knn_entropy(
    z: Tensor, labels: Tensor, num_neighbors: int = 3, *, average: bool = False, chunk_rows: int = CHUNK_ROWS
) -> Tensor:
    """Return the estimate of H[Z | Y] = sum_y n_y / N * H[Z | y], a scalar in nats.

    Each H[Z | y] is `knn_entropy` of the points of that class. With equally many points of each class, as in the
    paper, the weights are 1 / C. Classes that have no points at all count for nothing.

    Args:
        z: (N, D) points.
        labels: (N,) integer classes.
        num_neighbors: k; every class that is there needs more than k points.
        average: as in `knn_entropy`.
        chunk_rows: as in `knn_entropy`.

    Raises:
        IbrobustError: as `knn_entropy`, or labels are not (N,) integers, or a class has k points or fewer.
    """
    _check(z, num_neighbors)
    if labels.shape != (len(z),) or labels.is_floating_point() or labels.is_complex():
        raise IbrobustError(
            f"The labels have shape {tuple(labels.shape)} and dtype {labels.dtype}: ({len(z)},) integers are needed."
        )
    classes, counts = labels.unique(return_counts=True)
    if int(counts.min()) <= num_neighbors:
        smallest = int(classes[counts.argmin()])
        raise IbrobustError(
            f"Class {smallest} has {int(counts.min())} points, too few for {num_neighbors} neighbours: raise the batch "
            "size, balance the batches, or lower num_neighbors."
        )
    parts = [
        knn_entropy(z[labels == label], num_neighbors, average=average, chunk_rows=chunk_rows) for label in classes
    ]
    weights = (counts / len(z)).to(parts[0].dtype)
    return (torch.stack(parts) * weights).sum()


def _estimate(squared: Tensor, dim: int, num_neighbors: int, *, average: bool) -> Tensor:
    count = len(squared)
    log_volume = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1.0)
    if average:
        psi_k = sum(_digamma(k) for k in range(1, num_neighbors + 1)) / num_neighbors
        mean_log = squared.log().mean()
    else:
        psi_k = _digamma(num_neighbors)
        mean_log = squared[:, -1].log().mean()
    return _digamma(count) - psi_k + log_volume + 0.5 * dim * mean_log


def _squared_distances(points: Tensor, num_neighbors: int, chunk_rows: int) -> Tensor:
    """Return (N, k) differentiable squared distances to the k nearest other points, ascending."""
    neighbors = _nearest(points.detach(), num_neighbors, chunk_rows)  # (N, k)
    # As differences, not through the matrix product of the search: exact for points far from the origin.
    squared = (points[:, None, :] - points[neighbors]).square().sum(-1)  # (N, k)
    centred = points.detach() - points.detach().mean(dim=0)
    smallest = SMALLEST_SHARE * centred.square().sum(-1).mean()
    return squared.clamp(min=smallest)


@torch.no_grad()
def _nearest(points: Tensor, num_neighbors: int, chunk_rows: int) -> Tensor:
    """Return (N, k) indices of the nearest other points, by ascending distance."""
    # |a - b|^2 as |a|^2 + |b|^2 - 2 a.b loses what is small beside |a|^2; float64 about the centre loses nothing that
    # float32 points can tell apart.
    centred = points.double()
    centred = centred - centred.mean(dim=0)
    norms = centred.square().sum(-1)
    found = []
    for start in range(0, len(points), chunk_rows):
        rows = centred[start : start + chunk_rows]
        distances = torch.addmm(norms, rows, centred.T, alpha=-2.0)  # (R, N), less |row|^2
        own = torch.arange(len(rows), device=points.device)
        distances[own, start + own] = math.inf
        found.append(distances.topk(num_neighbors, dim=1, largest=False).indices)
    return torch.cat(found)


def _check(z: Tensor, num_neighbors: int) -> None:
    if z.dim() != 2 or not z.is_floating_point():
        raise IbrobustError(f"The points have shape {tuple(z.shape)} and dtype {z.dtype}: (N, D) floats are needed.")
    if num_neighbors < 1:
        raise IbrobustError(f"num_neighbors is {num_neighbors}: at least 1 is needed.")
    if len(z) <= num_neighbors:
        raise IbrobustError(f"{len(z)} points are too few for {num_neighbors} neighbours: more points, or a smaller k.")
    if z.shape[1] < 1:
        raise IbrobustError("The points have no dimensions.")


@cache
def _digamma(n: int) -> float:
    """Return psi(n) for a positive integer."""
    return float(torch.digamma(torch.tensor(float(n), dtype=torch.float64)))
