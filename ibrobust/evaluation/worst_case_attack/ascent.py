"""Gradient ascent in a ball, with momentum: first steps are long, later ones shrink to zero; it stops at success."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.evaluation.attacks.losses import AttackLoss, margin, towards_by_margin
from ibrobust.evaluation.attacks.pgd import loss_gradient
from ibrobust.evaluation.ball import Ball

MOMENTUM = 0.75  # as in APGD (Croce and Hein 2020)
FIRST_STEP = 2.0  # in radii

# (logits (B, K), labels (B,), targets (B,) or None) -> (B,)
AimedLoss = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def margin_loss(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Return z_t - z_y (B,); without targets, t is the likeliest other class at each step."""
    if targets is None:
        return margin(logits, labels)
    return towards_by_margin(logits, labels, targets)


def ratio_loss(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Return the margin over z_(1) - (z_(3) + z_(4)) / 2 (B,), the targeted DLR of Croce and Hein 2020.

    With three classes the smallest logit replaces both, and with two classes it is the margin itself. Classes that a
    logit of -inf rules out do not count.
    """
    gap = margin_loss(logits, labels, targets)
    if logits.shape[1] < 3:
        return gap
    ruled_out = logits == -torch.inf
    smallest = logits.masked_fill(ruled_out, torch.inf).amin(dim=1, keepdim=True)
    ordered = torch.where(ruled_out, smallest, logits).topk(min(4, logits.shape[1]), dim=1).values
    spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, -1]) / 2.0 + 1e-12
    # With two classes left, the ratio would be constant.
    return gap / torch.where((~ruled_out).sum(dim=1) < 3, 1.0, spread)


@dataclass(frozen=True)
class Ascent:
    """One run on B images.

    Attributes:
        found: (B, C, H, W) the first misclassified point in the ball, else the last one.
        broken: (B,) bool, some point was misclassified. Always False in a ball larger than the attack's own.
        last: (B, C, H, W) the last point.
        margins: (B,) margin of the last point's logits, positive if it is misclassified.
        gaps: (B, K) for each class, the largest z_t - z_y on the way; -inf at the label.
        nonfinite: (B,) bool, a gradient was NaN at some step.
        zero: (B,) bool, the first gradient was exactly zero.
        reached: (B,) bool, the last point is misclassified, in a ball of any size.
        rose: (B,) bool, the margin was larger at some point than at the start.
        at_once: (B,) bool, the start is misclassified.
    """

    found: Tensor
    broken: Tensor
    last: Tensor
    margins: Tensor
    gaps: Tensor
    nonfinite: Tensor
    zero: Tensor
    reached: Tensor
    rose: Tensor
    at_once: Tensor


def climb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    *,
    ball: Ball,
    steps: int,
    loss: AimedLoss,
    targets: Tensor | None = None,
    factor: float = 1.0,
    first_step: float = FIRST_STEP,
    stop: bool = True,
) -> Ascent:
    """Return the outcome of `steps` gradients per image.

    Args:
        model: behind a guard: images (B, C, H, W) in [0, 1] -> logits (B, K).
        images: (B, C, H, W) in [0, 1], on the model's device.
        labels: (B,).
        start: (B, C, H, W) within the ball of `factor` radii.
        ball: the attack's own.
        steps: gradients per image; one more forward pass is needed.
        loss: to maximise.
        targets: (B,) target classes, if any.
        factor: factor on the radius of the searched ball; above 1 no point counts as a success.
        first_step: length of the first step in radii; the others follow a cosine down to zero.
        stop: stop the attack on an image once it is misclassified; never in a larger ball.
    """
    last, previous, found = start.clone(), start.clone(), start.clone()
    broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    nonfinite, zero, reached, rose, at_once = (broken.clone() for _ in range(5))
    gaps: Tensor | None = None
    margins = images.new_zeros(len(images))
    active = torch.arange(len(images), device=images.device)
    for step in range(steps + 1):
        points, truth = last[active], labels[active]
        aimed = None if targets is None else targets[active]
        if step < steps:
            gradient, _, logits = loss_gradient(model, points, truth, _aimed(loss, aimed))
        else:
            with torch.no_grad():
                logits = model(points)
        if gaps is None:
            gaps = logits.new_full((len(images), logits.shape[1]), -torch.inf)
        now = _gaps(logits, truth)
        gaps[active] = torch.maximum(gaps[active], now)
        margins[active] = now.amax(dim=1).to(margins)
        if step == 0:
            at_start = margins.clone()
        rose[active] |= margins[active] > at_start[active]
        wrong = ~is_correct(logits, truth)
        reached[active] = wrong
        if factor <= 1.0:
            fresh = wrong & ~broken[active]
            found[active[fresh]] = points[fresh]
            broken[active[fresh]] = True
        if step == steps:
            break
        finite = gradient.isfinite().flatten(1).all(dim=1)
        nonfinite[active] |= ~finite
        if step == 0:
            zero[active] = (gradient == 0.0).flatten(1).all(dim=1)
            at_once = wrong
        size = first_step * factor * ball.epsilon * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        moved = ball.project(points + size * ball.direction(gradient, points), images[active], factor)
        if step > 0:
            moved = points + MOMENTUM * (moved - points) + (1.0 - MOMENTUM) * (points - previous[active])
            moved = ball.project(moved, images[active], factor)
        previous[active] = points
        last[active] = moved
        if stop and factor <= 1.0:
            active = active[~wrong]
            if len(active) == 0:
                break
    assert gaps is not None
    found[~broken] = last[~broken]
    return Ascent(
        found=found,
        broken=broken,
        last=last,
        margins=margins,
        gaps=gaps,
        nonfinite=nonfinite,
        zero=zero,
        reached=reached,
        rose=rose,
        at_once=at_once,
    )


def _aimed(loss: AimedLoss, targets: Tensor | None) -> AttackLoss:
    return lambda logits, labels: loss(logits, labels, targets)


def _gaps(logits: Tensor, labels: Tensor) -> Tensor:
    gaps = logits - logits.gather(1, labels[:, None])
    return gaps.nan_to_num(torch.inf).scatter(1, labels[:, None], -torch.inf)
