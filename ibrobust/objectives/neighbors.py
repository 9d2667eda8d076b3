"""Exact k-nearest-neighbour search among the points themselves, by matrix products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ibrobust.objectives.symmetric_search import bfloat16_is_faster, search_symmetric

# Edge of the square tiles of the distance matrix that are held at once: 4 MB in float32, what a core's caches hold.
TILE = 1024

# Distances of some rows to all points that are held at once, in tiles: 134 MB in float64.
ROWS_OF_TILES = 16

# Candidates kept beyond the k nearest, by the dtype of the products: without a gap behind the k-th nothing could be
# proved about the other points, and it has to be wider the coarser the products are.
SPARE = {torch.bfloat16: 5, torch.float32: 2, torch.float64: 2}

# Rows to try bfloat16 on, and the share of them for which it may prove nothing.
TRIED = 64
LARGEST_SHARE_UNPROVED = 0.05

# On a GPU a search among so few points is done in float64 at once: it is cheap there, and needs no proof, whose outcome
# the host would have to wait for in every training step.
SMALL_ON_GPU = 2048

# The largest rounding error that was seen is one of a few; others may be larger.
ERROR_SAFETY = 4.0


@torch.no_grad()
def nearest_neighbors(points: Tensor, num_neighbors: int, *, tile: int = TILE) -> tuple[Tensor, Tensor]:
    """Return the squared Euclidean distances (N, k) to the k nearest other points, ascending, and their indices (N, k).

    The product form |a|^2 + |b|^2 - 2 a.b only proposes candidates, a few more than k, in as low a precision as the
    device multiplies fastest and the points allow. Their distances are recomputed as sums of squared differences, exact
    for points far from the origin. Where the rounding error of the product form, seen by comparing the two, could hide
    a nearer point behind the candidates, the row is searched again in float64. So the result does not depend on the
    precision or the tiles.

    Args:
        points: (N, D) float32 or float64; N > k. A point that is not finite has no meaningful neighbours, and distances
            that are not finite.
        num_neighbors: k.
        tile: edge of the tiles, a multiple of `GROUP`. Memory beyond the input is about
            4 N D + 2 tile^2 values, and `ROWS_OF_TILES` tile^2 where rows are searched again.
    """
    count = len(points)
    centred = points - points.mean(dim=0)
    if points.is_cuda and count <= SMALL_ON_GPU:
        kept = _kept(num_neighbors, torch.float64, count)
        return _nearest_of(points, None, _search_rows(centred.double(), None, kept, tile)[1], num_neighbors)[:2]

    if points.is_cuda or count <= 2 * tile:
        proposed = _search_rows(centred, None, _kept(num_neighbors, points.dtype, count), tile)
    else:
        product, shift = _choose_product(points, centred, num_neighbors, tile)
        kept = _kept(num_neighbors, product, count)
        proposed = search_symmetric(centred, kept, tile, product=product, shift=shift)
    distances, neighbors, unproved = _prove(points, centred, None, proposed, num_neighbors)
    if len(unproved):
        again = _search_rows(centred.double(), unproved, proposed[1].shape[1], tile)[1]
        distances[unproved], neighbors[unproved], _ = _nearest_of(points, unproved, again, num_neighbors)
    return distances, neighbors


def _kept(num_neighbors: int, product: torch.dtype, count: int) -> int:
    return min(num_neighbors + SPARE[product], count - 1)


def _choose_product(points: Tensor, centred: Tensor, num_neighbors: int, tile: int) -> tuple[torch.dtype, float]:
    """Return the dtype for the products, and half the squared distance of the neighbours in a few rows."""
    if points.dtype != torch.float32 or not bfloat16_is_faster():
        return points.dtype, 0.0
    rows = torch.linspace(0, len(points) - 1, TRIED).long()
    kept = _kept(num_neighbors, torch.bfloat16, len(points))
    proposed = _search_rows(centred.bfloat16().float(), rows, kept, tile)
    distances, _, unproved = _prove(points, centred, rows, proposed, num_neighbors)
    shift = 0.5 * float(distances[:, -1].median())
    if len(unproved) > LARGEST_SHARE_UNPROVED * TRIED or not math.isfinite(shift):
        return torch.float32, 0.0
    return torch.bfloat16, shift


@torch.no_grad()
def nearest_within_classes(
    points: Tensor, labels: Tensor, num_neighbors: int, *, tile: int = TILE, one_matrix: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `nearest_neighbors` does among the points of the same class, and the sizes (N,) of their classes.

    Points of a class of k or fewer get distances without meaning.

    Args:
        points: (N, D).
        labels: (N,) integers on the same device.
        num_neighbors: k.
        tile: as in `nearest_neighbors`.
        one_matrix: mask one float64 matrix of all distances in place of a search for each class. The host then never
            waits for the device, but time and memory are those of N points at once.
    """
    count = len(points)
    if one_matrix:
        same = labels[:, None] == labels  # (N, N)
        sizes = same.sum(dim=1)
        centred = (points - points.mean(dim=0)).double()
        norms = centred.square().sum(dim=1)
        distances = torch.addmm(norms, centred, centred.T, alpha=-2.0)  # (N, N), less the rows' norms
        distances.masked_fill_(~same.fill_diagonal_(False), math.inf)
        kept = min(num_neighbors + SPARE[torch.float64], count)
        candidates = distances.topk(kept, dim=1, largest=False)
        exact = squared_distances(points, None, candidates.indices)
        # A candidate of another class is there only to fill up.
        exact.masked_fill_(candidates.values == math.inf, math.inf)
        nearest, order = exact.topk(min(num_neighbors, count), dim=1, largest=False)
        return nearest, candidates.indices.gather(1, order), sizes

    nearest = points.new_full((count, num_neighbors), math.nan)
    neighbors = torch.zeros(count, num_neighbors, dtype=torch.long, device=points.device)
    sizes = torch.zeros_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        sizes[members] = len(members)
        if len(members) > num_neighbors:
            nearest[members], local = nearest_neighbors(points[members], num_neighbors, tile=tile)
            neighbors[members] = members[local]
    return nearest, neighbors, sizes


def _search_rows(points: Tensor, rows: Tensor | None, kept: int, tile: int) -> tuple[Tensor, Tensor]:
    """Return squared distances by the product form (R, kept), ascending, and indices: the readable search."""
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


def _nearest_of(
    points: Tensor, rows: Tensor | None, candidates: Tensor, num_neighbors: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k least distances, their indices, and the distances of all candidates (R, kept) in their order."""
    exact = squared_distances(points, rows, candidates)
    distances, order = exact.topk(num_neighbors, dim=1, largest=False)
    return distances, candidates.gather(1, order), exact


def squared_distances(points: Tensor, rows: Tensor | None, neighbors: Tensor) -> Tensor:
    """Return |p_i - p_j|^2 (R, K) for i in `rows` (all where None) and j in neighbors (R, K)."""
    count, number = neighbors.shape
    result = points.new_empty(count, number)
    chosen = neighbors.flatten()
    step = rows_at_once(points, neighbors)
    # One buffer for all steps: memory that is new to the process costs more than the arithmetic.
    buffer = points.new_empty(min(step, count) * number, points.shape[1])
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        own = points[part] if rows is None else points[rows[part]]
        differences = buffer[: len(own) * number]
        # This gathers rows twice as fast as an index of two dimensions does.
        torch.index_select(points, 0, chosen[part.start * number : part.stop * number], out=differences)
        differences = differences.view(len(own), number, points.shape[1])
        # In one pass over the differences, as a norm; several passes would cost more than the search itself.
        torch.linalg.vector_norm(differences.sub_(own[:, None, :]), dim=-1, out=result[part])
    return result.square_()


def rows_at_once(points: Tensor, neighbors: Tensor) -> int:
    """Return for how many rows the differences to all their neighbours are held at once: 4 MB of them in float32."""
    return max(1, (1 << 20) // max(1, neighbors.shape[1] * points.shape[1]))


def _prove(
    points: Tensor, centred: Tensor, rows: Tensor | None, proposed: tuple[Tensor, Tensor], num_neighbors: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k nearest of the proposed points, and which of the rows (U,) may have a nearer one that is not."""
    approximate, candidates = proposed
    distances, neighbors, exact = _nearest_of(points, rows, candidates, num_neighbors)
    if candidates.shape[1] == len(points) - 1:  # all points are candidates
        return distances, neighbors, torch.empty(0, dtype=torch.long, device=points.device)
    lengths = torch.linalg.vector_norm(centred, dim=1)  # (N,)
    if rows is not None:
        lengths = lengths[rows]
    norms = lengths.square()
    # Relative to |a|^2 + |b|^2, what rounding in the product form is proportional to. Of those norms the candidates'
    # are bounded by the triangle inequality, and so is that of any point nearer than the k-th.
    scale = norms[:, None] + (lengths[:, None] + exact.sqrt()).square()
    seen = ((approximate - exact).abs() / scale).nan_to_num(0.0).amax()
    error = ERROR_SAFETY * torch.maximum(seen, torch.full_like(seen, torch.finfo(points.dtype).eps))
    kth = distances[:, -1]
    bound = error * (norms + (lengths + kth.sqrt()).square())
    return distances, neighbors, (~(approximate[:, -1] - bound > kth)).nonzero().squeeze(1)
