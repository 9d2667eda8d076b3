"""Whether a model's gradient adds up to what the model does, along lines between images and in random directions."""

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
ROUNDING, HALF_ROUNDING = 1e-5, 0.1  # of the largest logit
# In a random direction, at most one line of a shipped model has a larger share, with each of its decoders. Over a
# shorter way, levels of rounding whose gradient passes straight through would not add up.
RANDOM_STEPS, RANDOM_LENGTH, UNEXPLAINED_AT_RANDOM = 8, 1 / 8, 0.5


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
        shares = _finite([_of_lines(model, *part, steps=steps)[0] for part in parts])
        if len(shares) == 0 or float(shares.median()) <= UNEXPLAINED:
            break
    return shares


def unexplained_at_random(model: GuardedModel, images: Tensor, *, batch_size: int) -> Tensor:
    """Return what the gradient does not explain, as `unexplained_shares`, on lines from images in random directions.

    A gradient may be right between images and wrong in the directions in which images do not differ, which are most of
    an attack. Each pixel goes up or down by `RANDOM_LENGTH`. Here v is the margin between an image's two first classes,
    and the difference is divided by the change of v, or by the mean size of its slope along the line if that is larger:
    v may rise and fall again.
    """
    images = images[evenly_spaced(len(images), min(LINES, len(images)), images.device)].detach()
    drawn = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    ends, shares = (images + RANDOM_LENGTH * (drawn - 0.5).sign()).clamp(0.0, 1.0), []
    for start, end in zip(images.split(batch_size), ends.split(batch_size), strict=True):
        with torch.no_grad():
            own, other = model(start).topk(2, dim=1).indices.T
        shares.append(_of_lines(model, start, end, own, other, steps=RANDOM_STEPS)[1])
    return _finite(shares)


def _finite(shares: list[Tensor]) -> Tensor:
    together = torch.cat(shares)
    return together[together.isfinite()]


def _of_lines(
    model: GuardedModel, start: Tensor, end: Tensor, own: Tensor, other: Tensor, *, steps: int
) -> tuple[Tensor, Tensor]:
    """Return the shares (B,) of the change of v, and of its change or slope, of lines from `start` to `end`.

    Both are (B, C, H, W); v is for the classes `own` and `other` (B,).
    """
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
    difference = (change - torch.trapezoid(torch.stack(slopes), dx=1 / steps, dim=0)).abs()
    # A model that hardly answers to its images has no change but that of rounding.
    size = torch.maximum(change.abs(), ROUNDING * largest).clamp(min=1e-300)
    slope = torch.stack(slopes).abs().mean(dim=0)
    rounding = (HALF_ROUNDING if model.in_half_precision else ROUNDING) * largest
    return difference / size, difference / torch.maximum(torch.maximum(size, slope), rounding)
