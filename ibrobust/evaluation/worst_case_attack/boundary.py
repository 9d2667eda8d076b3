"""Attacks that follow the decision boundary and stop at success: FAB (Croce and Hein 2020), and a walk on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.evaluation.attacks.losses import margin, towards_by_margin
from ibrobust.evaluation.attacks.perturbation import perturbation_size
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import image_gradient
from ibrobust.full_precision import default_dtype

OVERSHOOT = 1.05
BACK = 0.9  # after a misclassified point, the way from the image is shortened to this share
MOST_PULL = 0.1  # the largest weight of the projection of the image itself
REACH = 1.5  # in radii beyond the first, when an image may be given up for the first time
HALVINGS = 10
TRIED_RADII = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # of the ball


def follow_boundary(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    ball: Ball,
    steps: int,
    patience: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the misclassified points (B, C, H, W) nearest to the images, and their distances (B,) in radii.

    A point is the image itself, and the distance infinite, if no misclassified point was found. Each step goes to the
    plane on which the linearised logits of the label and the target are equal. An image is finished at the first
    misclassified point within one radius.

    Args:
        model: behind a guard: images (B, C, H, W) in [0, 1] -> logits (B, K).
        images: (B, C, H, W) in [0, 1], on the model's device.
        labels: (B,).
        targets: (B,) classes other than the labels.
        ball: gives the norm and the radius.
        steps: gradients per image, with two forward passes each.
        patience: steps after which an image is given up if no misclassified point is within 2.5 radii; this limit
            then falls towards one radius, to 1.4 at twice as many steps. By default none is given up.
    """
    from pyautoattack.fab_projections import projection_l2, projection_linf

    onto = projection_linf if ball.norm == "Linf" else projection_l2
    nearest, points = images.clone(), images.clone()
    distances = images.new_full((len(images),), torch.inf)
    active = torch.arange(len(images), device=images.device)
    for step in range(steps):
        if patience is not None and step >= patience:
            active = active[distances[active] <= 1.0 + REACH * (patience / step) ** 2]
        if len(active) == 0:
            break
        origin, here, own = images[active], points[active].requires_grad_(), labels[active]
        with torch.enable_grad():
            logits = model(here)
            gap = towards_by_margin(logits, own, targets[active])
            normal = image_gradient(gap.sum(), here).flatten(1).float()
        here, gap = here.detach(), gap.detach().float()
        if ball.norm == "L2":  # whose projection squares the gradient
            normal, gap = _of_usual_size(normal, gap)
        offset = (normal * here.flatten(1)).sum(dim=1) - gap
        both = torch.cat([here.flatten(1), origin.flatten(1)]).float()
        with default_dtype(torch.float32):
            moves = onto(both, normal.repeat(2, 1), offset.float().repeat(2)).reshape(2, *here.shape)
        lengths = perturbation_size(moves.flatten(0, 1), ball.norm).clamp(min=1e-8).reshape(2, -1, 1, 1, 1)
        pull = (lengths[0] / (lengths[0] + lengths[1])).clamp(max=MOST_PULL)
        here = ((here + OVERSHOOT * moves[0]) * (1 - pull) + (origin + OVERSHOOT * moves[1]) * pull).clamp(0.0, 1.0)
        with torch.no_grad():
            wrong = ~is_correct(model(here), own)
        far = perturbation_size(here - origin, ball.norm) / ball.epsilon
        nearer = wrong & (far < distances[active])
        nearest[active[nearer]], distances[active[nearer]] = here[nearer], far[nearer]
        points[active] = torch.where(wrong[:, None, None, None], origin + BACK * (here - origin), here)
        active = active[distances[active] > 1.0]
    return nearest, distances


def _of_usual_size(normal: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """Return tiny and huge gradients (B, P), and gaps (B,), divided by a power of two: the plane stays the same."""
    largest = normal.abs().amax(dim=1)
    strange = ((largest < 1e-6) | (largest > 1e6)) & largest.isfinite()
    exponent = torch.where(strange, torch.frexp(largest).exponent, 0)
    return torch.ldexp(normal, -exponent[:, None]), torch.ldexp(gap, -exponent)


def walk_on_boundary(
    model: nn.Module, images: Tensor, labels: Tensor, starts: Tensor, *, ball: Ball, steps: int
) -> Tensor:
    """Return misclassified points (B, C, H, W) in the ball; an image itself if none was found.

    Each step halves the line from the image to a misclassified point until it ends at the boundary, where two logits
    are equal. From the image it then follows the gradient at that point to the nearest misclassified point. On the
    boundary the margin's gradient has the same direction however the model rescales each class's margin, so that only
    decisions and normals of the boundary count.

    Args:
        model: behind a guard: images (B, C, H, W) in [0, 1] -> logits (B, K).
        images: (B, C, H, W) in [0, 1], on the model's device.
        labels: (B,).
        starts: (B, C, H, W) in [0, 1], misclassified.
        ball: gives the norm and the radius.
        steps: gradients per image, with 19 forward passes each.
    """
    found, points = images.clone(), starts.clone()
    active = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        if len(active) == 0:
            break
        origin, own = images[active], labels[active]
        edge = _halved(model, origin, points[active], own)
        here = edge.clone().requires_grad_()
        with torch.enable_grad():
            gradient = image_gradient(margin(model(here), own).sum(), here)
        direction = ball.direction(gradient, origin)
        within = ball.project(edge, origin)
        goes_on = torch.zeros_like(active, dtype=torch.bool)
        with torch.no_grad():
            done = ~is_correct(model(within), own)
            found[active[done]] = within[done]
            for radius in TRIED_RADII:
                tried = (origin + radius * ball.epsilon * direction).clamp(0.0, 1.0)
                first = ~is_correct(model(tried), own) & ~goes_on
                points[active[first]] = tried[first]
                goes_on |= first
                if radius <= 1.0:
                    found[active[first]] = tried[first]
                    done |= first
        active = active[goes_on & ~done]
    return found


@torch.no_grad()
def _halved(model: nn.Module, images: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """Return the misclassified end (B, C, H, W) of the shortest part of each line with a correct and a wrong end."""
    right, wrong = images, points
    for _ in range(HALVINGS):
        middle = (right + wrong) / 2
        there = ~is_correct(model(middle), labels)[:, None, None, None]
        right, wrong = torch.where(there, right, middle), torch.where(there, middle, wrong)
    return wrong
