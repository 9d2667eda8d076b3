"""Proposals for nearest neighbours from half of the distance matrix, for many points on a CPU."""

from __future__ import annotations

import math
import time
from functools import cache

import torch
from torch import Tensor

# Number of scores in a group: its maximum is computed before single scores are compared.
GROUP = 32

# Half the squared distance of the rows that only fill a tile.
BEYOND = 1e30


def search_symmetric(
    points: Tensor, kept: int, tile: int, *, product: torch.dtype, shift: float
) -> tuple[Tensor, Tensor]:
    """Return squared distances (N, kept), ascending, as exact as `product` allows, and the indices of the points.

    The distance matrix is symmetric, so that only the tiles on and above its diagonal are multiplied out, and each
    serves its rows and its columns. `nearest_neighbors` then makes the result exact.

    Args:
        points: (N, D) about their mean.
        kept: proposals for each point, less than N.
        tile: edge of the tiles, a multiple of `GROUP`.
        product: dtype of the products: that of the points, or bfloat16.
        shift: half the squared distance at which the products should be most exact; needed in bfloat16, whose results
            are coarse far from zero.
    """
    count = len(points)
    blocks = [slice(start, start + tile) for start in range(0, count, tile)]
    left, right = _factors(points, len(blocks) * tile, product, shift)
    best = points.new_full((len(left), kept), -math.inf)  # descending
    indices = torch.zeros(len(left), kept, dtype=torch.long)
    scores = points.new_empty(tile, tile)
    narrow = scores if product == points.dtype else scores.to(product)

    def multiply(rows: slice, columns: slice) -> None:
        torch.mm(left[rows], right[columns].T, out=narrow)
        if narrow is not scores:
            scores.copy_(narrow)

    found = min(kept, tile)
    for own in blocks:
        multiply(own, own)
        best[own, :found], local = scores.fill_diagonal_(-math.inf).topk(found, dim=1)
        indices[own, :found] = local + own.start
    groups = tile // GROUP
    by_row = scores.view(tile, GROUP, groups)  # (T, GROUP, T / GROUP)
    by_column = scores.view(GROUP, groups, tile)  # (GROUP, T / GROUP, T)
    for position, rows in enumerate(blocks):
        for columns in blocks[position + 1 :]:
            multiply(rows, columns)
            _take_nearer(best[rows], indices[rows], by_row, by_row.amax(dim=1), columns.start)
            # The maximum before the transposition: after it, PyTorch's reduction is forty times as slow.
            across = by_column.permute(2, 0, 1)  # (T, GROUP, T / GROUP)
            _take_nearer(best[columns], indices[columns], across, by_column.amax(dim=0).T, rows.start)
    # Only points that are not finite can have a filling row of the last tile as a neighbour.
    return best[:count].sub_(shift).mul_(-2.0), indices[:count].clamp_(max=count - 1)


def _factors(points: Tensor, rows: int, product: torch.dtype, shift: float) -> tuple[Tensor, Tensor]:
    """Return two matrices (rows, D + 2 P) with the product a b^T = shift - |p_i - p_j|^2 / 2.

    P extra columns on each side hold the norms, so that they need not be added to each tile: one column, or three to
    hold a float32 in bfloat16.
    """
    count, dim = points.shape
    rounded = points.to(product)
    offsets = points.new_full((rows,), -BEYOND)
    offsets[:count] = 0.5 * shift - 0.5 * rounded.to(points.dtype).square().sum(dim=1)
    parts = []
    for _ in range(3 if product == torch.bfloat16 else 1):
        parts.append(offsets.to(product))
        offsets = offsets - parts[-1].to(points.dtype)
    columns = torch.stack(parts, dim=1)  # (rows, P)
    left = torch.zeros(rows, dim + 2 * len(parts), dtype=product)
    left[:count, :dim] = rounded
    right = left.clone()
    left[:, dim : dim + len(parts)] = right[:, dim + len(parts) :] = columns
    left[:, dim + len(parts) :] = right[:, dim : dim + len(parts)] = 1.0
    return left, right


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


@cache
def bfloat16_is_faster() -> bool:
    """Return whether this CPU multiplies matrices faster in bfloat16 than in float32, by trying once.

    PyTorch has no public query for this; the emulation on a CPU without such instructions is many times slower.
    """
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 256, dtype=dtype)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            torch.mm(matrix, matrix.T)
            times.append(time.perf_counter() - started)
        best[dtype] = min(times)
    return best[torch.bfloat16] < 0.75 * best[torch.float32]
