"""How much the latents tell about the labels, by matched neighbourhoods."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.objectives.entropy import check_class_sizes

CHUNK_ROWS = 1024


@dataclass(frozen=True)
class MutualInformation:
    """An estimate of I[Y; Z].

    Attributes:
        nats: the estimate. It can be a little below zero where there is no information.
        error: the standard error of its mean over points, plus what it can exceed the entropy of the labels by.
        label_entropy: H[Y] of the labels given, in nats, at most log C.
    """

    nats: float
    error: float
    label_entropy: float


@torch.no_grad()
def mutual_information(z: Tensor, labels: Tensor, num_neighbors: int = 3) -> MutualInformation:
    """Return the estimate of I[Y; Z] between points and their labels, in nats (Ross 2014; ties as Gao et al. 2017).

    I = psi(N) + mean_i [psi(k_i) - psi(m_i) - psi(n_i)]: the ball around point i that just holds its k-th nearest point
    of the same class has k_i points of that class in it and m_i of all classes, and n_i points have that class. H[Z]
    and H[Z | Y] are thus compared within the same ball, and the bias that each has for its number of points in many
    dimensions cancels, which it does not in a difference of two `knn_entropy` estimates. Since m_i >= k_i, the estimate
    never exceeds psi(N) - mean psi(n_i), which is H[Y] + (C - 1) / (2 N) to first order, and is that where the classes
    are separated. It blurs over the size of a ball, so between overlapping classes in many dimensions it is too low.

    Args:
        z: (N, D) points, any floating dtype; computed in float64.
        labels: (N,) integer classes.
        num_neighbors: k; every class that is there needs more than k points.

    Raises:
        IbrobustError: shapes or dtypes are wrong, a point is not finite, or a class has k points or fewer.
    """
    if z.dim() != 2 or not z.is_floating_point() or 0 in z.shape or not bool(z.isfinite().all()):
        raise IbrobustError(
            f"The points have shape {tuple(z.shape)} and dtype {z.dtype}: (N, D) floats, all finite, are needed."
        )
    if labels.shape != (len(z),) or labels.is_floating_point() or labels.is_complex():
        raise IbrobustError(
            f"The labels have shape {tuple(labels.shape)} and dtype {labels.dtype}: ({len(z)},) integers are needed."
        )
    if num_neighbors < 1:
        raise IbrobustError(f"num_neighbors is {num_neighbors}: at least 1 is needed.")
    check_class_sizes(labels, num_neighbors)

    labels = labels.to(z.device)
    _, class_of, sizes = labels.unique(return_inverse=True, return_counts=True)
    of_class, of_all = _ball_counts(z.double(), class_of, num_neighbors)  # (N,) each
    count, own = torch.tensor(float(len(z)), dtype=torch.float64, device=z.device), sizes[class_of].double()
    terms = of_class.double().digamma() - of_all.double().digamma() - own.digamma()
    nats = float(count.digamma() + terms.mean())
    standard_error = float(terms.std()) / math.sqrt(len(z))
    share = sizes.double() / count
    label_entropy = float(-(share * share.log()).sum())
    excess = float(count.digamma() - own.digamma().mean()) - label_entropy
    return MutualInformation(nats=nats, error=standard_error + excess, label_entropy=label_entropy)


def _ball_counts(points: Tensor, class_of: Tensor, num_neighbors: int) -> tuple[Tensor, Tensor]:
    """Return how many other points of the class, and of all, are no further than the k-th nearest of the class."""
    centred = points - points.mean(dim=0)
    norms = centred.square().sum(dim=1)
    of_class, of_all = [], []
    for rows in torch.arange(len(points), device=points.device).split(CHUNK_ROWS):
        distances = torch.addmm(norms, centred[rows], centred.T, alpha=-2.0)  # (R, N), less the rows' norms
        distances.scatter_(1, rows[:, None], math.inf)
        same = class_of[rows, None] == class_of  # (R, N)
        radius = distances.masked_fill(~same, math.inf).kthvalue(num_neighbors, dim=1, keepdim=True).values
        inside = distances <= radius
        of_class.append((inside & same).sum(dim=1))
        of_all.append(inside.sum(dim=1))
    return torch.cat(of_class), torch.cat(of_all)
