"""Exact k-nearest-neighbour search among the points themselves, by matrix products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ibrobust.estimators.exact_search import Centred, centre, distances_between, power_of_two, search_exactly
from ibrobust.estimators.symmetric_search import bfloat16_is_faster, search_symmetric

# Edge of the square tiles of the distance matrix: 4 MB in float32, the size of a core's caches.
TILE = 1024

# Distances of some rows to all points in memory at once, in tiles: 134 MB in float64.
ROWS_OF_TILES = 16

# Candidates kept beyond the k nearest, by the dtype of the products: without a gap after the k-th, nothing could be
# proved about the other points. The coarser the products, the wider the gap.
SPARE = {torch.bfloat16: 7, torch.float32: 2, torch.float64: 2}

# Number of rows for a trial of bfloat16, and the share of them for which its proof may fail.
TRIED = 64
LARGEST_SHARE_UNPROVED = 0.05

# On a GPU, a search among so few points computes all differences at once. That is cheap there and needs no proof; the
# host would have to wait for a proof's result in every training step.
SMALL_ON_GPU = 2048

# The largest observed rounding error comes from a sample; others may be larger.
ERROR_SAFETY = 4.0


@torch.no_grad()
def nearest_neighbors(points: Tensor, num_neighbors: int, *, tile: int = TILE) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distances (N, k) to the k nearest other points, ascending, and their indices (N, k).

    The distances are float64, and 0 only if points coincide. The product form |a|^2 + |b|^2 - 2 a.b only proposes
    candidates, a few more than k, in as low a precision as the device multiplies fastest and the points allow. Their
    distances are recomputed as sums of squared differences, exact for points far from the origin. The comparison of
    both shows the rounding error of the product form; in bfloat16 it is bounded by how far rounding moved each point.
    If it could hide a nearer point outside the candidates, the row is searched again by `search_exactly`. So the result
    does not depend on the precision or the tiles.

    Args:
        points: (N, D) float32 or float64; N > k. A point that is not finite has no meaningful neighbours, and distances
            that are not finite.
        num_neighbors: k.
        tile: edge of the tiles, a multiple of `GROUP`. Memory beyond the input is about
            4 N D + 2 tile^2 values, and `ROWS_OF_TILES` tile^2 if rows are searched again.
    """
    count = len(points)
    if points.is_cuda and count <= SMALL_ON_GPU:
        return _nearest_by_differences(points, None, num_neighbors)
    centred = centre(points, points.dtype)
    product, shift = points.dtype, 0.0
    if points.is_cuda or count <= 2 * tile:
        proposed = _search_rows(centred.points, None, _kept(num_neighbors, product, count), tile)
    else:
        product, shift = _choose_product(points, centred, num_neighbors, tile)
        kept = _kept(num_neighbors, product, count)
        proposed = search_symmetric(centred.points, kept, tile, product=product, shift=shift)
    distances, neighbors, unproved = _prove(points, centred, None, proposed, num_neighbors, product, shift)
    if len(unproved):
        distances[unproved], neighbors[unproved] = search_exactly(points, unproved, num_neighbors)
    return distances, neighbors


def _kept(num_neighbors: int, product: torch.dtype, count: int) -> int:
    return min(num_neighbors + SPARE[product], count - 1)


def _choose_product(points: Tensor, centred: Centred, num_neighbors: int, tile: int) -> tuple[torch.dtype, float]:
    """Return the dtype for the products, and half the squared distance to the neighbours in a few rows."""
    if points.dtype != torch.float32 or not bfloat16_is_faster():
        return points.dtype, 0.0
    rows = torch.linspace(0, len(points) - 1, TRIED).long()
    kept = _kept(num_neighbors, torch.bfloat16, len(points))
    proposed = _search_rows(centred.points.bfloat16().float(), rows, kept, tile)
    distances, _, unproved = _prove(points, centred, rows, proposed, num_neighbors, torch.bfloat16, None)
    shift = 0.5 * float((distances[:, -1] * centred.scale).square().median())
    if len(unproved) > LARGEST_SHARE_UNPROVED * TRIED or not math.isfinite(shift):
        return torch.float32, 0.0
    return torch.bfloat16, shift


@torch.no_grad()
def nearest_within_classes(
    points: Tensor, labels: Tensor, num_neighbors: int, *, tile: int = TILE, one_matrix: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result of `nearest_neighbors` within the same class, and the sizes (N,) of the classes.

    The distances of points in a class of k or fewer points have no meaning.

    Args:
        points: (N, D).
        labels: (N,) integers on the same device.
        num_neighbors: k.
        tile: as in `nearest_neighbors`.
        one_matrix: compute all distances at once, with the other classes masked, instead of one search per class. The
            host then never waits for the device, but time and memory are those of N points at once.
    """
    count = len(points)
    if one_matrix:
        same = labels[:, None] == labels  # (N, N)
        sizes = same.sum(dim=1)
        return *_nearest_by_differences(points, same, min(num_neighbors, count)), sizes

    nearest = points.new_full((count, num_neighbors), math.nan, dtype=torch.float64)
    neighbors = torch.zeros(count, num_neighbors, dtype=torch.long, device=points.device)
    sizes = torch.zeros(count, dtype=torch.long, device=points.device)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        sizes[members] = len(members)
        if len(members) > num_neighbors:
            nearest[members], local = nearest_neighbors(points[members], num_neighbors, tile=tile)
            neighbors[members] = members[local]
    return nearest, neighbors, sizes


def _nearest_by_differences(points: Tensor, allowed: Tensor | None, num_neighbors: int) -> tuple[Tensor, Tensor]:
    """Return distances (N, k), ascending, and indices, from all differences; `allowed` (N, N) masks pairs.

    A distance is infinite if fewer than k others are allowed.
    """
    wide = points.double() * power_of_two(points)
    distances = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    if allowed is not None:
        distances.masked_fill_(~allowed, math.inf)
    kept = min(_kept(num_neighbors, torch.float64, len(points)) + 1, len(points))
    values, candidates = distances.topk(kept, dim=1, largest=False)
    # A candidate that is not allowed only fills the row.
    exact = distances_between(points, None, candidates).masked_fill_(values == math.inf, math.inf)
    nearest, order = exact.topk(num_neighbors, dim=1, largest=False)
    return nearest, candidates.gather(1, order)


def _search_rows(points: Tensor, rows: Tensor | None, kept: int, tile: int) -> tuple[Tensor, Tensor]:
    """Return squared distances by the product form (R, kept), ascending, and indices: the simple search."""
    norms = torch.linalg.vector_norm(points, dim=1).square_()  # (N,)
    wanted = torch.arange(len(points), device=points.device) if rows is None else rows
    values, indices = [], []
    for part in wanted.split(max(1, ROWS_OF_TILES * tile**2 // len(points))):
        block = points if len(part) == len(points) else points[part]
        distances = torch.addmm(norms, block, points.T, alpha=-2.0)  # (T, N), less the rows' norms
        distances.scatter_(1, part[:, None], math.inf)
        value, index = distances.topk(kept, dim=1, largest=False)
        values.append(value + norms[part, None])
        indices.append(index)
    return torch.cat(values), torch.cat(indices)


def _prove(
    points: Tensor,
    centred: Centred,
    rows: Tensor | None,
    proposed: tuple[Tensor, Tensor],
    num_neighbors: int,
    product: torch.dtype,
    shift: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k nearest of the proposed points, and the rows (U,) that may have a nearer point outside them.

    Args:
        points: (N, D).
        centred: the points that were multiplied.
        rows: (R,) whose neighbours are proposed; all if None.
        proposed: squared distances (R, K), ascending, and indices.
        num_neighbors: k.
        product: dtype to which the points were rounded.
        shift: as in `search_symmetric`, which rounds its results to the same dtype; None if they were not rounded.
    """
    approximate, candidates = proposed
    exact = distances_between(points, rows, candidates)
    distances, order = exact.topk(num_neighbors, dim=1, largest=False)
    neighbors = candidates.gather(1, order)
    if candidates.shape[1] == len(points) - 1:  # all points are candidates
        return distances, neighbors, torch.empty(0, dtype=torch.long, device=points.device)
    own = torch.linalg.vector_norm(centred.points, dim=1).double()  # (N,)
    if rows is not None:
        own = own[rows]
    norms = own.square()
    scaled, kth = exact * centred.scale, distances[:, -1] * centred.scale
    # Errors of a sum of D products grow as sqrt(D) (Higham and Mary 2019), even if none was observed.
    limits, dim = torch.finfo(points.dtype), points.shape[1]
    error = points.new_full((), max(1.0, 0.5 * math.sqrt(dim)) * limits.eps, dtype=torch.float64)
    if product == points.dtype:
        # Relative to |a|^2 + |b|^2, to which rounding in the product form is proportional. Of those norms the
        # candidates' are bounded by the triangle inequality, and so is that of any point nearer than the k-th.
        sums = norms[:, None] + (own[:, None] + scaled).square()
        seen = ((approximate - scaled.square()).abs() / sums).nan_to_num(nan=0.0, posinf=0.0).amax()
        error = error.maximum(seen)
    bound = ERROR_SAFETY * (error * (norms + (own + kth).square()) + dim * limits.tiny)
    if product != points.dtype:
        # The sums are as exact, but of rounded points. Rounding has moved each by a known distance.
        moved = torch.linalg.vector_norm(centred.points - centred.points.to(product).to(points.dtype), dim=1).double()
        kth = kth + (moved if rows is None else moved[rows]) + moved.amax()
        if shift is not None:
            coarse = 0.5 * torch.finfo(product).eps * (approximate[:, -1] - 2.0 * shift).abs()
            bound = bound + coarse + ERROR_SAFETY * error * 2.0 * shift
    uncertain = ~(approximate[:, -1] - bound > kth.square())
    # No point is nearer than a coinciding one, and nothing is known about a point that is not finite.
    return distances, neighbors, (uncertain & (distances[:, -1] > 0.0) & own.isfinite()).nonzero().squeeze(1)
