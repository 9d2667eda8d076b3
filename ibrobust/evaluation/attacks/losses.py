"""The losses that attacks maximise, per image: cross-entropy, the logit margin, or the margin as a ratio."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ibrobust.errors import IbrobustError

AttackLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) cross-entropies in nats. Their float32 gradient is exactly zero at margins past about 104."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) margins, max_{j != y} z_j - z_y: positive if the image is misclassified.

    Carlini and Wagner 2017, f_6 without its floor. It has a gradient of order one at any margin.
    """
    return _best_other(logits, labels) - _own(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) differences of logits ratio: the margin divided by z_(1) - z_(3), the largest minus the third.

    Croce and Hein 2020, equation (6). It is the same for all shifts and scales of the logits.
    """
    if logits.shape[1] < 3:
        raise IbrobustError(
            f"The DLR loss needs at least 3 classes, but the model has {logits.shape[1]}: use another loss."
        )
    ordered = logits.topk(3, dim=1).values  # (B, 3)
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def towards_by_cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return (B,) negative cross-entropies of the target classes (B,), in nats."""
    del labels
    return -F.cross_entropy(logits, targets, reduction="none")


def towards_by_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return (B,) differences z_t - z_y, even if another class is nearer."""
    return _own(logits, targets) - _own(logits, labels)


def towards_by_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return (B,) targeted differences of logits ratio: (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2).

    Croce and Hein 2020, equation (7).
    """
    if logits.shape[1] < 4:
        raise IbrobustError(
            f"The targeted DLR loss needs at least 4 classes, but the model has {logits.shape[1]}: use another loss."
        )
    ordered = logits.topk(4, dim=1).values  # (B, 4)
    spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    return towards_by_margin(logits, labels, targets) / (spread + 1e-12)


LOSSES: dict[str, AttackLoss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
# The same losses for an attack towards target classes: functions of logits, labels and targets.
TARGETED_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cross_entropy": towards_by_cross_entropy,
    "margin": towards_by_margin,
    "dlr": towards_by_dlr,
}


def _own(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]  # (B,)


def _best_other(logits: Tensor, labels: Tensor) -> Tensor:
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
    return logits.masked_fill(own, float("-inf")).amax(dim=1)  # (B,)
