"""Whether a model's gradient adds up to what the model does, along lines between images."""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.evaluation.guarded_model import GuardedModel, image_gradient
from ibrobust.spread import evenly_spaced

LINES = 16
# Between the points of a line, the gradient may turn: only what more points do not explain either is unexplained.
STEPS, MORE_STEPS = 32, 256
# The median of shipped models' lines is at most 0.04, and that of straight-through quantisers too. Networks that decide
# by what has no gradient, such as hard routing or votes, have over 0.5 in the tests.
UNEXPLAINED = 0.2
ROUNDING = 1e-5  # of the largest logit


def unexplained_shares(model: GuardedModel, images: Tensor, *, batch_size: int) -> Tensor:
    """Return, for each line between two images of different predicted classes, what the gradient does not explain.

    On the line from an image a to an image b, let v = z_a - z_b, the logit of a's class minus that of b's. The integral
    of v's gradient along the line is v(b) - v(a) if the gradient is that of v, whatever the model computes. The share
    is the absolute difference of the two, divided by that of v(b) and v(a).

    Args:
        model: in a guard: images (B, C, H, W) in [0, 1] -> logits (B, K). It draws no random numbers.
        images: (N, C, H, W), of which at most `LINES` begin a line. If all are of one predicted class, b is grey
            (0.5), and v is the margin to the second class of a.
        batch_size: images per pass.

    Returns:
        (L,) float64, L at most `LINES`. Lines on which a logit is infinite, as of a class that is ruled out, are left
        out.

    Raises:
        IbrobustError: the model's backward pass fails.
    """
    images = images[evenly_spaced(len(images), min(LINES, len(images)), images.device)].detach()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in images.split(batch_size)])
    labels, seconds = logits.topk(2, dim=1).indices.T
    # The next image of another class, in a circle.
    distance = (torch.arange(len(images))[None] - torch.arange(len(images))[:, None]) % len(images)
    distance = distance.to(labels.device).masked_fill(labels[None] == labels[:, None], len(images))
    nearest, partners = distance.min(dim=1)
    begins = (nearest < len(images)).nonzero()[:, 0]
    if len(begins):
        lines = (images[begins], images[partners[begins]], labels[begins], labels[partners[begins]])
    else:
        lines = (images, torch.full_like(images, 0.5), labels, seconds)
    for steps in (STEPS, MORE_STEPS):
        parts = zip(*(each.split(batch_size) for each in lines), strict=True)
        shares = torch.cat([_of_lines(model, *part, steps=steps) for part in parts])
        shares = shares[shares.isfinite()]
        if len(shares) == 0 or float(shares.median()) <= UNEXPLAINED:
            break
    return shares


def _of_lines(model: GuardedModel, start: Tensor, end: Tensor, own: Tensor, other: Tensor, *, steps: int) -> Tensor:
    """Return the shares (B,) of lines from `start` to `end` (B, C, H, W); v is for the classes `own`, `other` (B,)."""
    values, slopes, largest = [], [], torch.zeros(len(start), dtype=torch.float64)
    for step in range(steps + 1):
        points = (start + step / steps * (end - start)).requires_grad_()
        with torch.enable_grad():
            logits = model(points)
            two = logits.gather(1, torch.stack([own, other], dim=1))  # (B, 2)
            value = two[:, 0] - two[:, 1]
            gradient = image_gradient(value.sum(), points)
        values.append(value.detach().cpu().double())  # MPS has no float64
        largest = torch.maximum(largest, two.detach().abs().amax(dim=1).cpu().double())
        slopes.append((gradient * (end - start)).flatten(1).sum(dim=1).cpu().double())
    change = values[-1] - values[0]
    integral = torch.trapezoid(torch.stack(slopes), dx=1 / steps, dim=0)
    # A model that hardly answers to its images has no change but that of rounding.
    return (change - integral).abs() / torch.maximum(change.abs(), ROUNDING * largest).clamp(min=1e-300)
