"""Distances as sums of squared differences, and the search for which products are too coarse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# The number of values of a distance matrix in memory at once, and the maximum number of its rows.
VALUES_AT_ONCE = 1 << 22

# Powers of two up to this, and their reciprocals, are normal numbers in the dtype.
LARGEST_EXPONENT = {torch.float32: 120, torch.float64: 1000}

# Lengths in float64 between these have squares that neither overflow nor underflow, even as sums of many.
SHORTEST, LONGEST = 1e-130, 1e130

# Rows whose median, coordinate by coordinate, is the centre: a few far points do not move it.
CENTRE_ROWS = 63


def distances_between(points: Tensor, rows: Tensor | None, neighbors: Tensor) -> Tensor:
    """Return |p_i - p_j| (R, K), float64, for i in `rows` (all if None) and j in neighbors (R, K).

    Right to a few units in the last place of the points' dtype, however far from the origin the points are.
    """
    count, number = neighbors.shape
    result = points.new_empty(count, number, dtype=torch.float64)
    chosen = neighbors.flatten()
    step = rows_at_once(points, neighbors)
    # One buffer for all steps: allocating new memory costs more than the arithmetic.
    buffer = points.new_empty(min(step, count) * number, points.shape[1])
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        own = points[part] if rows is None else points[rows[part]]
        differences = buffer[: len(own) * number]
        # This gathers rows twice as fast as an index of two dimensions does.
        torch.index_select(points, 0, chosen[part.start * number : part.stop * number], out=differences)
        differences = differences.view(len(own), number, points.shape[1])
        result[part] = lengths(differences.sub_(own[:, None, :]))
    return result


def lengths(vectors: Tensor) -> Tensor:
    """Return the Euclidean lengths (...), float64, of vectors (..., D), without overflow or underflow of squares."""
    # In one pass, as a norm; several passes would cost more than the search itself.
    found = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64)
    if vectors.dtype == torch.float64:  # the squares of float32 numbers fit
        extreme = ~((found > SHORTEST) & (found < LONGEST))
        if bool(extreme.any()):
            chosen = vectors[extreme]
            largest = chosen.abs().amax(dim=-1, keepdim=True)
            ratios = torch.where(largest > 0.0, chosen / largest, 0.0)
            found[extreme] = largest.squeeze(-1) * torch.linalg.vector_norm(ratios, dim=-1)
    return found


def rows_at_once(points: Tensor, neighbors: Tensor) -> int:
    """Return the number of rows whose differences to all neighbours fit in 4 MB of float32."""
    return max(1, (1 << 20) // max(1, neighbors.shape[1] * points.shape[1]))


@dataclass(frozen=True)
class Centred:
    """Points (N, D), centred and scaled so that their products do not overflow.

    Attributes:
        points: (N, D), multiplied by `scale`.
        scale: a power of two, scalar: the product is exact, and no finite coordinate is above 2.
    """

    points: Tensor
    scale: Tensor


def power_of_two(points: Tensor) -> Tensor:
    """Return a power of two, a float64 scalar, that brings the largest coordinate of points (N, D) near 1.

    It is 1 if a coordinate is not finite.
    """
    largest = torch.stack(points.aminmax()).abs().amax()  # NaN if any coordinate is
    largest = largest.where(largest.isfinite(), 0.5)
    limit = LARGEST_EXPONENT[points.dtype]
    return torch.ldexp(
        torch.ones_like(largest, dtype=torch.float64), -torch.frexp(largest).exponent.clamp(-limit, limit)
    )


def centre(points: Tensor, dtype: torch.dtype) -> Centred:
    """Return the points (N, D), centred, in a dtype at least as wide as theirs, with its rounding."""
    scale = power_of_two(points).to(dtype)
    rows = torch.linspace(0, len(points) - 1, min(len(points), CENTRE_ROWS), device=points.device).long()
    middle = points[rows].nanmedian(dim=0).values
    return Centred((points.to(dtype) * scale).sub_(middle.to(dtype) * scale), scale)


class _Bounds:
    """Lower and upper bounds of squared distances between the centred points (N, D), from float64 products.

    The rounding error of |a|^2 + |b|^2 - 2 a.b is at most about (D + 6) eps (|a|^2 + |b|^2), that of centring
    included, whatever the order of the sums is (Higham 2002, eq. 3.5).
    """

    def __init__(self, points: Tensor) -> None:
        centred = centre(points, torch.float64)
        limits = torch.finfo(torch.float64)
        self.points, self.scale = centred.points, centred.scale
        self.norms = self.points.square().sum(dim=1)  # (N,)
        self.share = (points.shape[1] + 16) * limits.eps
        self.least = (points.shape[1] + 16) * limits.tiny  # for products that underflow

    def lower(self, rows: Tensor) -> Tensor:
        """Return lower bounds (R, N) of the squared distances from the rows (R,), infinity to themselves."""
        low = (1.0 - self.share) * self.norms
        found = torch.addmm(low, self.points[rows], self.points.T, alpha=-2.0)
        found += (low[rows] - self.least)[:, None]
        return found.scatter_(1, rows[:, None], torch.inf)

    def width(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return the upper minus the lower bound between the rows (R,) and the others, (R, K) or (N,)."""
        return 2.0 * (self.share * (self.norms[rows, None] + self.norms[others]) + self.least)


def search_exactly(points: Tensor, rows: Tensor, num_neighbors: int) -> tuple[Tensor, Tensor]:
    """Return distances (R, k), float64, ascending, from the rows (R,) to their nearest other points, and their indices.

    Every point that products in float64 do not exclude for certain is compared by differences. So the result is right
    however far the points are from each other and from the origin; only the time depends on it.

    Args:
        points: (N, D) float32 or float64; N > k.
        rows: (R,) indices of finite points.
        num_neighbors: k.
    """
    bounds = _Bounds(points)
    distances = points.new_empty(len(rows), num_neighbors, dtype=torch.float64)
    neighbors = torch.empty(len(rows), num_neighbors, dtype=torch.long, device=points.device)
    step = max(1, VALUES_AT_ONCE // len(points))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        lower = bounds.lower(part)  # (T, N)
        least, nearest = lower.topk(num_neighbors, dim=1, largest=False)
        reach = (least + bounds.width(part, nearest)).amax(dim=1, keepdim=True)  # k points are no further
        possible = ~(lower > reach)  # NaN, of a point that is not finite, excludes nothing
        possible.scatter_(1, part[:, None], False)
        row, column = possible.nonzero(as_tuple=True)  # (P,) each
        lower.fill_(torch.inf)[row, column] = distances_between(points, part[row], column[:, None]).squeeze(1)
        found = lower.topk(num_neighbors, dim=1, largest=False)
        distances[start : start + step], neighbors[start : start + step] = found
    return distances, neighbors


def count_within(points: Tensor, radii: Tensor, class_of: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of other points within the radius of each point: in its class (N,), and in all (N,).

    Distances that rounding cannot tell from the radius count as no further.

    Args:
        points: (N, D) float64, finite.
        radii: (N,) float64.
        class_of: (N,) integers.
    """
    bounds = _Bounds(points)
    limits = radii * (1.0 + bounds.share)  # (N,)
    squares = (limits * bounds.scale).square()
    everyone = torch.arange(len(points), device=points.device)
    of_class, of_all = [], []
    for part in everyone.split(max(1, VALUES_AT_ONCE // len(points))):
        lower, limit = bounds.lower(part), squares[part, None]
        inside = lower + bounds.width(part, everyone) < limit  # (T, N)
        row, column = (~inside & ~(lower > limit * (1.0 + bounds.share))).nonzero(as_tuple=True)  # not certain
        near = distances_between(points, part[row], column[:, None]).squeeze(1) <= limits[part[row]]
        inside[row, column] = near
        inside.scatter_(1, part[:, None], False)
        of_all.append(inside.sum(dim=1))
        of_class.append((inside & (class_of[part, None] == class_of)).sum(dim=1))
    return torch.cat(of_class), torch.cat(of_all)
