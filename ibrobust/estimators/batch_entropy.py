"""Both kNN entropies of a training batch, with a memory of earlier latents as further neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ibrobust.estimators.others import of_other_images, other_points

# A squared distance in product form, |a|^2 + |b|^2 - 2 a.b in float64, is rounded by less than this share of
# |a|^2 + |b|^2. Closer points cannot be distinguished: they count as that far apart and get no gradient.
ROUNDING = 1e-14


def batch_knn_entropies(
    z: Tensor,
    labels: Tensor,
    *,
    within_neighbors: int,
    overall_neighbors: int,
    average: bool = False,
    memory: tuple[Tensor, Tensor] | None = None,
    images: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the Kozachenko-Leonenko estimates of H[Z | Y] and H[Z], two scalars in nats.

    Without a memory they are `conditional_knn_entropy` and `knn_entropy` of the batch, unless points coincide: another
    distance then stands for 0, see `ROUNDING`. Points of a memory are neighbours too: the mean over i stays over the
    batch, r_k(i) is the distance to the k-th nearest among N - 1 + M points, and N + M takes the place of N in psi(N).
    Points of the same image are not neighbours: N - 1 + M then is the number of points of other images. All distances
    come from one float64 matrix (N, N + M), so the neighbours are exact and the host never waits for a GPU.

    While the memory has empty places, as in the first steps, a point with fewer than k neighbours uses all of them,
    with their number for k. So does a point that has fewer only because some others are of its image. In any other case
    the estimate is then NaN.

    Args:
        z: (N, D) points, float; the batch.
        labels: (N,) integer classes.
        within_neighbors: k for H[Z | Y], at least 1.
        overall_neighbors: k for H[Z], at least 1.
        average: the mean of the estimates for 1..k instead of that for k.
        memory: (M, D) further points, which get no gradient, and their (M,) labels; points with a negative label are
            ignored.
        images: (N + M,) integers, the image that each point of the batch and the memory is of; by default all differ.
    """
    with torch.autocast(z.device.type, enabled=False):
        points = z.double()
        centre = points.detach().median(dim=0).values  # far points do not move it
        points = points - centre
        neighbors, their_labels = points, labels
        if memory is not None:
            neighbors = torch.cat([points, memory[0].double() - centre])  # (N + M, D)
            their_labels = torch.cat([labels, memory[1]])
        norms = neighbors.square().sum(dim=1)
        sums = norms[: len(z), None] + norms  # (N, N + M)
        least = (ROUNDING * sums.detach()).clamp(min=torch.finfo(sums.dtype).tiny)  # also where all points coincide
        squared = torch.maximum(sums - 2.0 * points @ neighbors.T, least)
        others = other_points(labels, their_labels)
        counts = of_other_images(others, images)
        same = labels[:, None] == their_labels
        dim = z.shape[1]
        within = _estimate(squared, counts & same, within_neighbors, dim=dim, average=average)
        overall = _estimate(squared, counts, overall_neighbors, dim=dim, average=average)
        is_full = (their_labels[len(z) :] >= 0).all()
        few_within = is_full & ((others & same).sum(dim=1) < within_neighbors).any()
        few_overall = is_full & (others.sum(dim=1) < overall_neighbors).any()
        dtype = z.dtype if z.dtype == torch.float64 else torch.float32
        return within.where(~few_within, math.nan).to(dtype), overall.where(~few_overall, math.nan).to(dtype)


def _estimate(squared: Tensor, counts: Tensor, num_neighbors: int, *, dim: int, average: bool) -> Tensor:
    """Return the mean estimate of the rows of squared distances (N, N + M); only points that count are neighbours.

    Rows without any neighbour are left out.
    """
    most = min(num_neighbors, squared.shape[1])
    nearest = squared.detach().masked_fill(~counts, math.inf).topk(most, dim=1, largest=False).indices
    logs = squared.gather(1, nearest).log()  # (N, k), ascending
    others = counts.sum(dim=1)
    ranks = torch.arange(1, most + 1, device=squared.device, dtype=squared.dtype)
    last = others.clamp(min=1, max=most)  # (N,), the available k
    digammas = ranks.digamma()
    if average:
        used = ranks <= last[:, None]
        logs = torch.where(used, logs, 0.0).sum(dim=1) / last
        digammas = digammas.cumsum(dim=0) / ranks
    else:
        logs = logs.gather(1, last[:, None] - 1).squeeze(1)
    log_volume = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1.0)
    entropies = (others + 1).double().digamma() - digammas[last - 1] + log_volume + 0.5 * dim * logs  # (N,)
    present = others > 0
    return torch.where(present, entropies, 0.0).sum() / present.sum().clamp(min=1)
