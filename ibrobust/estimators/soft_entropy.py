"""Surrogates of the entropies for training: all points are neighbours, and near ones have more weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.estimators.arguments import Labels, as_labels, as_points
from ibrobust.estimators.others import of_other_images, other_points

# The rounding error of a squared distance by products, in eps of |a|^2 + |b|^2: 1e-6 of that in float32.
ROUNDING = 8.0


def soft_entropies(
    z: Tensor,
    labels: Labels,
    *,
    sharpness: float,
    class_sharpness: float = 0.0,
    memory: tuple[Tensor, Tensor] | None = None,
    images: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return surrogates of H[Z | Y] and H[Z], two scalars that fall and rise with them; not entropies in nats.

    The Kozachenko-Leonenko estimate is d/2 times the mean logarithm of a squared distance to a neighbour, plus a
    constant. With a mean over several neighbours instead of the k-th one, homogeneous of degree one, it still gains
    d log(a) nats when the points are scaled by a. But with all points of a batch as neighbours, however far, it is not
    consistent: it is a surrogate for training. Report `knn_entropy` instead. Here

        H[Z | Y]:  d/2 * mean_i -1/s * log mean_{j != i: y_j = y_i} r_ij^(-2 s)
        H[Z]:      d/2 * mean_i -1/tau * log mean_{j != i} r_ij^(-2 tau)

    A power mean of large s or tau is the nearest neighbour's; as s goes to 0 it becomes mean_j log r_ij^2, the mean of
    the estimates for k = 1..n_y - 1.

    Every point of the batch is a neighbour, so the gradient of one step reaches all pairs: points are drawn to all of
    their class, and pushed away from all others in proportion to their nearness. Points of a memory are neighbours too,
    so that an entropy is estimated from more points than a batch holds; the means over i stay over the batch. Points of
    the same image are no neighbours of each other.

    Distances are by matrix products, for speed. Their rounding is relative to |a|^2 + |b|^2 about the batch's median,
    so a squared distance below 1e-6 of that (8 eps of the computing dtype) counts as that, and has no gradient: points
    of a cluster that is a thousand times narrower than its distance from the median are not distinguished. No other
    point changes this. `knn_entropy` has no such limit.

    Args:
        z: (N, D) points, any floating dtype; computed in float32, or float64 if given so.
        labels: (N,) classes, any integers or booleans; a point whose class has no other is left out of H[Z | Y].
        sharpness: tau > 0.
        class_sharpness: s >= 0.
        memory: (M, D) further points, which get no gradient, and their (M,) labels; points with a negative label are
            ignored.
        images: (N + M,) integers, the image that each point of the batch and the memory is of; by default all differ.

    Raises:
        IbrobustError: tau is not positive and finite, s is negative or not finite, z is not (N, D) floats, or labels
            are not (N,) integers.

    Examples:
        >>> z, labels = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1])
        >>> within, overall = soft_entropies(z, labels, sharpness=2.0)
        >>> float(within)  # the mean logarithm of a distance to the other of the class: log 1
        0.0
    """
    z = as_points(z)
    labels = as_labels(labels, len(z)).to(z.device)
    if not 0.0 < sharpness < math.inf:
        raise IbrobustError(f"The neighbour sharpness is {sharpness}: a positive number is needed.")
    if not 0.0 <= class_sharpness < math.inf:
        raise IbrobustError(f"The class sharpness is {class_sharpness}: a number of at least 0 is needed.")
    with torch.autocast(z.device.type, enabled=False):
        points = z if z.dtype == torch.float64 else z.float()
        centre = points.detach().median(dim=0).values  # far points do not move it
        points = points - centre
        count, dim = points.shape
        norms = points.square().sum(dim=1)
        neighbors, their_labels = points, labels
        if memory is not None:
            neighbors = torch.cat([points, memory[0].to(points) - centre])  # (N + M, D)
            their_labels = torch.cat([labels, memory[1]])
            norms = torch.cat([norms, neighbors[count:].square().sum(dim=1)])
        sums = norms[:count, None] + norms  # (N, N + M)
        # In float64: of near points little is left of the difference, and a GPU may round a product of float32 to TF32.
        squared = sums - 2.0 * (points.double() @ neighbors.double().T).to(points)
        limits = torch.finfo(points.dtype)
        smallest = (ROUNDING * limits.eps * sums.detach()).clamp_(min=limits.tiny)
        logs = torch.where(squared > smallest, squared, smallest).log()
        counts = of_other_images(other_points(labels, their_labels), images)
        same = (labels[:, None] == their_labels) & counts
        within = _power_mean_log(logs, same, class_sharpness)  # (N,)
        present = same.any(dim=1)
        conditional = torch.where(present, within, 0.0).sum() / present.sum().clamp(min=1)
        # Without any other point there is nothing to compare, as in a class of one.
        overall = torch.where(counts.any(dim=1), _power_mean_log(logs, counts, sharpness), 0.0).mean()
        return 0.5 * dim * conditional, 0.5 * dim * overall


def _power_mean_log(logs: Tensor, counts: Tensor, power: float) -> Tensor:
    """Return -1/power * log mean_j exp(-power * logs_ij) (N,) over the counted j; mean_j logs_ij for power 0."""
    number = counts.sum(dim=1).clamp(min=1).to(logs)
    if power == 0.0:
        return torch.where(counts, logs, 0.0).sum(dim=1) / number
    # A finite stand-in for minus infinity: a row in which none counts has a gradient of 0, not of NaN.
    masked = torch.where(counts, -power * logs, torch.finfo(logs.dtype).min)
    return (number.log() - torch.logsumexp(masked, dim=1)) / power
