"""Projected gradient descent in the L-infinity or L2 ball, watched at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.evaluation.attacks.losses import LOSSES, TARGETED_LOSSES, AttackLoss
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import guard, image_gradient

# A gradient of exactly zero gives attacks no direction; of more than this share of the images, it is a warning.
LARGEST_ZERO_SHARE = 0.01
ZERO_GRADIENT = "The gradient is exactly zero at many images, where this attack has no direction."


@dataclass(frozen=True)
class PGDResult:
    """One run on N images.

    Attributes:
        adversarial: (N, C, H, W) the first misclassified iterate, else the last one.
        last: (N, C, H, W) the last iterate.
        broken: (N,) bool, some iterate was misclassified.
        last_broken: (N,) bool, the last iterate was. Without stopping, images that are broken but not here are
            successes that torchattacks' PGD misses, since it returns its last iterate.
        nonfinite: (N,) bool, a gradient was NaN or infinite at some step.
        zero: (N,) bool, the first gradient was exactly zero.
        losses: (steps + 1, N) the loss at every iterate, NaN after the attack on an image stopped.
    """

    adversarial: Tensor
    last: Tensor
    broken: Tensor
    last_broken: Tensor
    nonfinite: Tensor
    zero: Tensor
    losses: Tensor


def loss_gradient(model: nn.Module, images: Tensor, labels: Tensor, loss: AttackLoss) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient (B, C, H, W) of each image's own loss, the losses (B,) and the logits (B, K).

    The losses are summed, not averaged: an average divides each gradient by the batch size, and the smallest of
    them underflow to zero.
    """
    points = images.detach().requires_grad_()  # not copied: the guard protects its input from changes
    with torch.enable_grad():
        logits = guard(model)(points)
        values = loss(logits, labels)
        gradient = image_gradient(values.sum(), points)
    return gradient, values.detach(), logits.detach()


def nonfinite_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) bool: whether the gradient of cross-entropy in images (B, C, H, W) is NaN or infinite.

    The libraries' own steps turn a NaN into no step at all, and the image looks robust.
    """
    gradient, _, _ = loss_gradient(model, images, labels, LOSSES["cross_entropy"])
    return ~gradient.flatten(1).isfinite().all(dim=1)


def nonfinite_flags(count: int) -> tuple[str, ...]:
    """Return a warning if there are images with a NaN or infinite gradient."""
    if count == 0:
        return ()
    images, them = ("1 image", "it") if count == 1 else (f"{count} images", "them")
    return (f"The gradient of {images} is NaN or infinite: an attack that follows it could not change {them}.",)


def zero_gradient_flags(zero: Tensor) -> tuple[str, ...]:
    """Return a warning if the gradient of many images, those in `zero` (B,), is exactly zero."""
    return (ZERO_GRADIENT,) if float(zero.float().mean()) > LARGEST_ZERO_SHARE else ()


def default_step_size(epsilon: float, steps: int) -> float:
    """Return the step size 2.5 epsilon / steps; PGD then reaches the boundary from every start (Madry et al. 2018)."""
    return 2.5 * epsilon / max(steps, 1)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float | None = None,
    loss: str | AttackLoss = "cross_entropy",
    targets: Tensor | None = None,
    start: Tensor | None = None,
    stop_when_broken: bool = True,
    stop_from: int = 0,
    norm: str = "Linf",
) -> PGDResult:
    """Return the outcome of `steps` steps x <- clip(x + step_size * sign(grad)) from `start` (Madry et al. 2018).

    In L2 a step goes along the gradient, `step_size` far.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode.
        images: (N, C, H, W) in [0, 1], on the model's device; one batch.
        labels: (N,).
        epsilon: radius in [0, 1] pixel scale.
        steps: gradients per image.
        step_size: in pixel scale; 2.5 epsilon / steps by default.
        loss: cross_entropy, margin or dlr; or a function from logits (B, K) and labels (B,) to a loss (B,).
        targets: (N,) classes to move towards, with one of the three losses by name; by default away from the label. An
            image is broken by any misclassification.
        start: (N, C, H, W) within the ball; the images themselves by default.
        stop_when_broken: stop the attack on an image once it is misclassified.
        stop_from: steps that are made in any case; after them the attack stops on images that were misclassified at
            any step, and `last` is their iterate there.
        norm: of the ball, Linf or L2.
    """
    model, ball = guard(model), Ball(norm, epsilon)
    value_of = LOSSES[loss] if isinstance(loss, str) else loss
    size = default_step_size(epsilon, steps) if step_size is None else step_size
    # Memory is what limits the batch size: no tensor of the images' size is kept that can be computed or dropped.
    last = images if start is None else start  # replaced and never written to
    del start
    # Left alone, a broken image's last iterate is its first broken one.
    first_broken = None if stop_when_broken and stop_from == 0 else last.clone()
    broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    last_broken, nonfinite, zero = broken.clone(), broken.clone(), broken.clone()
    losses = images.new_full((steps + 1, len(images)), float("nan"))
    active = torch.arange(len(images), device=images.device)
    for step in range(steps + 1):
        if len(active) == 0:
            break
        everyone = len(active) == len(images)
        points, classes = (last, labels) if everyone else (last[active], labels[active])
        if targets is not None:
            value_of = _towards(str(loss), targets if everyone else targets[active])
        if step < steps:
            gradient, values, logits = loss_gradient(model, points, classes, value_of)
        else:
            with torch.no_grad():
                logits = model(points)
                values = value_of(logits, classes)
        losses[step, active] = values.to(losses.dtype)
        wrong = ~is_correct(logits, classes)
        fresh = active[wrong & ~broken[active]]
        if first_broken is not None:
            first_broken[fresh] = last[fresh]
        broken[fresh] = True
        last_broken[active] = wrong
        if step == steps:
            break
        nonfinite[active] |= ~gradient.isfinite().flatten(1).all(dim=1)
        if step == 0:
            zero = (gradient == 0.0).flatten(1).all(dim=1)
        if norm == "Linf":
            moved = gradient.sign().nan_to_num_(0.0).mul_(size).add_(points)
        else:
            moved = ball.direction(gradient, points).mul_(size).add_(points)
        del gradient, points
        done = broken[active]
        if stop_when_broken and step >= stop_from and bool(done.any()):
            moved, active, everyone = moved[~done], active[~done], False
        centres = images if everyone else images[active]
        if norm == "Linf":
            moved = moved.clamp_(centres - epsilon, centres + epsilon).clamp_(0.0, 1.0)
        else:
            moved = ball.project(moved, centres)
        last = moved if everyone else last.index_copy(0, active, moved)
        del moved, centres
    if first_broken is None:
        return PGDResult(last, last, broken, last_broken, nonfinite, zero, losses)
    adversarial = torch.where(broken[:, None, None, None], first_broken, last)
    return PGDResult(adversarial, last, broken, last_broken, nonfinite, zero, losses)


def _towards(loss: str, targets: Tensor) -> AttackLoss:
    return lambda logits, labels: TARGETED_LOSSES[loss](logits, labels, targets)


@torch.no_grad()
def target_classes(
    model: nn.Module, images: Tensor, labels: Tensor, rule: str, generator: torch.Generator
) -> list[Tensor]:
    """Return the target classes (B,) of each attempt.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K).
        images: (B, C, H, W).
        labels: (B,).
        rule: second, least_likely, random or all; see `PGD`.
        generator: of the random ones.
    """
    logits = model(images).scatter(1, labels[:, None], torch.inf)
    others = logits.argsort(dim=1, descending=True)[:, 1:]  # (B, K - 1), the likeliest first
    count = others.shape[1]
    if rule == "random":
        drawn = torch.randint(count, (len(images), 1), generator=generator)
        return [others.gather(1, drawn.to(others.device))[:, 0]]
    places = {"second": [0], "least_likely": [count - 1], "all": list(range(count))}[rule]
    return [others[:, place] for place in places]
