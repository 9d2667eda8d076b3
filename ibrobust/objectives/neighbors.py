"""Exact k-nearest-neighbour search among the points themselves, by matrix products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Edge of the square tiles of the distance matrix that are held at once: 4 MB in float32, what a core's caches hold.
TILE = 1024

# Scores whose maximum is taken before any is looked at by itself.
GROUP = 32

# Half the squared distance of what only fills up a tile.
BEYOND = 1e30

# Candidates kept beyond the k nearest: without a gap behind the k-th nothing could be proved about the other points.
SPARE = 2

# On a GPU a search among so few points is done in float64 at once: it is cheap there, and needs no proof, whose outcome
# the host would have to wait for in every training step.
SMALL_ON_GPU = 2048

# The largest rounding error that was seen is one of a few; others may be larger.
ERROR_SAFETY = 4.0


@torch.no_grad()
def nearest_neighbors(points: Tensor, num_neighbors: int, *, tile: int = TILE) -> tuple[Tensor, Tensor]:
    """Return the squared Euclidean distances (N, k) to the k nearest other points, ascending, and their indices (N, k).

    The distance matrix is symmetric, so on a CPU only the tiles on and above its diagonal are multiplied out, and each
    serves its rows and its columns. The product form |a|^2 + |b|^2 - 2 a.b only proposes k + `SPARE` candidates; the
    distances of those are recomputed as sums of squared differences, exact for points far from the origin. Where the
    rounding error of the product form, seen by comparing the two, could hide a nearer point behind the candidates, the
    row is searched again in float64. So the distances do not depend on the tiles.

    Args:
        points: (N, D) float32 or float64; N > k. A point that is not finite has no meaningful neighbours, and distances
            that are not finite.
        num_neighbors: k.
        tile: edge of the tiles, a multiple of `GROUP`. Memory beyond the input is about 3 N D + tile^2 values.
    """
    count = len(points)
    kept = min(num_neighbors + SPARE, count - 1)
    centred = points - points.mean(dim=0)
    if points.is_cuda and count <= SMALL_ON_GPU:
        candidates = _search_rows(centred.double(), None, kept, tile)[1]
        return _nearest_of(points, None, candidates, num_neighbors)[:2]

    if points.is_cuda or count <= 2 * tile:
        approximate, candidates = _search_rows(centred, None, kept, tile)
    else:
        approximate, candidates = _search_symmetric(centred, kept, tile)
    distances, neighbors, exact = _nearest_of(points, None, candidates, num_neighbors)
    unproved = _unproved(centred, approximate, exact, distances[:, -1], kept == count - 1)
    if len(unproved):
        again = _search_rows(centred.double(), unproved, kept, tile)[1]
        distances[unproved], neighbors[unproved], _ = _nearest_of(points, unproved, again, num_neighbors)
    return distances, neighbors


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
        candidates = distances.topk(min(num_neighbors + SPARE, count), dim=1, largest=False)
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
    norms = points.square().sum(dim=1)  # (N,)
    wanted = torch.arange(len(points), device=points.device) if rows is None else rows
    values, indices = [], []
    for part in wanted.split(tile):
        block = points if len(part) == len(points) else points[part]
        distances = torch.addmm(norms, block, points.T, alpha=-2.0)  # (T, N), less the rows' norms
        distances.scatter_(1, part[:, None], math.inf)
        value, index = distances.topk(kept, dim=1, largest=False)
        values.append(value + norms[part, None])
        indices.append(index)
    return torch.cat(values), torch.cat(indices)


def _search_symmetric(points: Tensor, kept: int, tile: int) -> tuple[Tensor, Tensor]:
    """Return what `_search_rows` does for all rows, with half the products; `tile` is a multiple of `GROUP`."""
    count, dim = points.shape
    blocks = [slice(start, start + tile) for start in range(0, count, tile)]
    half_norms = points.square().sum(dim=1).div_(-2.0)  # (N,)
    # Two more columns make the product itself -|a - b|^2 / 2, so that no pass over a tile has to add the norms. The
    # rows that fill up the last tile are further than any point, as their half norm is.
    left = points.new_zeros(len(blocks) * tile, dim + 2)
    left[:count, :dim] = points
    left[:, dim] = -BEYOND
    left[:count, dim] = half_norms
    left[:, dim + 1] = 1.0
    right = left.clone()
    right[:, dim], right[:, dim + 1] = left[:, dim + 1], left[:, dim]

    best = points.new_full((len(left), kept), -math.inf)  # descending
    indices = torch.zeros(len(left), kept, dtype=torch.long)
    scores = points.new_empty(tile, tile)
    found = min(kept, tile)
    for own in blocks:
        torch.mm(left[own], right[own].T, out=scores).fill_diagonal_(-math.inf)
        best[own, :found], local = scores.topk(found, dim=1)
        indices[own, :found] = local + own.start
    groups = tile // GROUP
    by_row = scores.view(tile, GROUP, groups)  # (T, GROUP, T / GROUP)
    by_column = scores.view(GROUP, groups, tile)  # (GROUP, T / GROUP, T)
    for position, rows in enumerate(blocks):
        for columns in blocks[position + 1 :]:
            torch.mm(left[rows], right[columns].T, out=scores)
            _take_nearer(best[rows], indices[rows], by_row, by_row.amax(dim=1), columns.start)
            # The maximum before the transposition: after it, PyTorch's reduction is forty times as slow.
            across = by_column.permute(2, 0, 1)  # (T, GROUP, T / GROUP)
            _take_nearer(best[columns], indices[columns], across, by_column.amax(dim=0).T, rows.start)
    # Only points that are not finite have what fills up the last tile among their neighbours.
    return best[:count].mul_(-2.0), indices[:count].clamp_(max=count - 1)


def _take_nearer(best: Tensor, indices: Tensor, scores: Tensor, maxima: Tensor, start: int) -> None:
    """Merge scores (R, GROUP, G), of the points `start` + g * G + h, into the best (R, kept) and indices, in place.

    Few scores are among the best so far, and a maximum is twenty times as fast as a selection; so maxima over groups
    (R, G) find the groups that hold any, and only those are looked at one by one.
    """
    groups, kept = scores.shape[2], best.shape[1]
    worst = best[:, -1]
    row, group = (maxima > worst[:, None]).nonzero(as_tuple=True)  # (P,) each
    values = scores[row, :, group]  # (P, GROUP)
    pair, member = (values > worst[row, None]).nonzero(as_tuple=True)  # (Q,) each
    rows, position, counts = row[pair].unique_consecutive(return_inverse=True, return_counts=True)
    if not len(rows):
        return
    # One line for each row with anything new: the best so far, then what is new, then nothing.
    slot = kept + torch.arange(len(pair)) - (counts.cumsum(0) - counts)[position]
    line_values = best.new_full((len(rows), kept + int(counts.max())), -math.inf)
    line_indices = torch.zeros(line_values.shape, dtype=torch.long)
    line_values[:, :kept], line_indices[:, :kept] = best[rows], indices[rows]
    line_values[position, slot] = values[pair, member]
    line_indices[position, slot] = start + member * groups + group[pair]
    best[rows], order = line_values.topk(kept, dim=1)
    indices[rows] = line_indices.gather(1, order)


def _nearest_of(
    points: Tensor, rows: Tensor | None, candidates: Tensor, num_neighbors: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k least distances, their indices, and the distances of all candidates (R, kept) in their order."""
    exact = squared_distances(points, rows, candidates)
    distances, order = exact.topk(num_neighbors, dim=1, largest=False)
    return distances, candidates.gather(1, order), exact


def squared_distances(points: Tensor, rows: Tensor | None, neighbors: Tensor) -> Tensor:
    """Return |p_i - p_j|^2 (R, K) for i in `rows` (all where None) and j in neighbors (R, K)."""
    parts = []
    for part in torch.arange(len(neighbors), device=points.device).split(rows_at_once(points, neighbors)):
        own = points[part if rows is None else rows[part]]
        parts.append((own[:, None, :] - points[neighbors[part]]).square().sum(dim=-1))
    return torch.cat(parts)


def rows_at_once(points: Tensor, neighbors: Tensor) -> int:
    """Return for how many rows the differences to all their neighbours are held at once: what a core's cache holds."""
    return max(1, (1 << 17) // max(1, neighbors.shape[1] * points.shape[1]))


def _unproved(centred: Tensor, approximate: Tensor, exact: Tensor, kth: Tensor, complete: bool) -> Tensor:
    """Return the rows (U,) for which a point that is no candidate may be nearer than the k-th that was found."""
    if complete:  # all points are candidates
        return torch.empty(0, dtype=torch.long, device=centred.device)
    norms = centred.square().sum(dim=1)  # (N,)
    # Relative to |a|^2 + |b|^2, what rounding in the product form is proportional to. Of those norms the candidates'
    # are bounded by the triangle inequality, and so is that of any point nearer than the k-th.
    scale = norms[:, None] + (norms.sqrt()[:, None] + exact.sqrt()).square()
    seen = ((approximate - exact).abs() / scale).nan_to_num(0.0).amax()
    error = ERROR_SAFETY * torch.maximum(seen, torch.full_like(seen, torch.finfo(centred.dtype).eps))
    bound = error * (norms + (norms.sqrt() + kth.sqrt()).square())
    return (~(approximate[:, -1] - bound > kth)).nonzero().squeeze(1)
