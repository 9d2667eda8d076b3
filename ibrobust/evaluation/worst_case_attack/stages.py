"""The stages with gradients; each attacks the images that earlier stages did not break."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.straight_through import StraightThrough
from ibrobust.evaluation.worst_case_attack.ascent import AimedLoss, climb, margin_loss, ratio_loss
from ibrobust.evaluation.worst_case_attack.search import NEAR, Search

STEPS = 20
START_STEPS = 10
FURTHER_STEPS = 50
LAST_STEPS = 100
RESTARTS = 5
# Radii as multiples of epsilon, with the steps at each. Only what lies in the last ball counts.
SHRINKING = ((2.0, 10), (NEAR, 10), (1.0, 20))
SHRINKING_FOR_FAR_CLASSES = ((2.0, 5), (NEAR, 10), (1.0, 20))
SHRINKING_SLOWLY = ((2.0, 10), (1.6, 10), (1.3, 12), (1.15, 15), (1.0, 20))
MOST_TARGETS = 9  # as many as AutoAttack's
FULL_TARGETS = 5
LINEARISED = 20  # number of classes with a linearised distance, if there are more than ten


def untargeted(search: Search) -> None:
    """Maximise the margin from the image itself; the gaps of the classes on the way later order the targets."""
    for at in search.batches(search.left):
        images, labels = search.images[at], search.labels[at]
        run = climb(search.target, images, labels, images, ball=search.ball, steps=STEPS, loss=margin_loss)
        search.zero[at], search.stuck[at] = run.zero, ~run.rose
        search.learn(at, run)


def from_surrogate(search: Search, surrogate: nn.Module) -> None:
    """Start from images that break the surrogate: if gradients mislead, a better start helps more than steps."""
    for at in search.batches(search.left):
        images, labels = search.images[at], search.labels[at]
        # Does not stop at success on the surrogate: a larger margin is a better start.
        start = climb(
            surrogate, images, labels, images, ball=search.ball, steps=START_STEPS, loss=margin_loss, stop=False
        ).last
        run = climb(search.target, images, labels, start, ball=search.ball, steps=STEPS, loss=margin_loss)
        search.transferred += int(run.at_once.sum())
        search.learn(at, run)


def from_larger_ball(search: Search) -> None:
    """Start from misclassified points of the model itself in a ball of twice the radius, if it has any there."""
    for at in search.batches(search.left):
        _shrink(search, at, ((2.0, START_STEPS), (1.0, STEPS)), ratio_loss, None)


def towards_each_class(search: Search) -> None:
    """Target up to nine classes in turn, the nearest one third, each through shrinking balls, with the ratio loss.

    A class is given up for an image if a larger ball ends at a point that is still classified correctly. Of the three
    nearest classes, the first ball only has to end with most of the way done.
    """
    order = search.ranked(search.left)
    if search.num_classes > 10:
        order = by_linearised_distance(search, search.left, order)
    orders = torch.zeros(len(search.images), order.shape[1], dtype=torch.long, device=order.device)
    orders[search.left] = order
    count = min(MOST_TARGETS, order.shape[1])
    # The runs without a target went towards the nearest class already.
    for rank in (*range(1, min(3, count)), 0, *range(3, count)):
        radii = SHRINKING if rank < FULL_TARGETS else SHRINKING_FOR_FAR_CLASSES
        left = search.left
        for at, targets in search.batches_towards(left, orders[left, rank]):
            _shrink(search, at, radii, ratio_loss, targets, start_within=0.6 if rank < 3 else 0.0)


def random_restarts(search: Search, seed: int) -> None:
    """Maximise the margin from random points of the ball, several times."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(RESTARTS):
        for at in search.batches(search.left):
            images, labels = search.images[at], search.labels[at]
            start = search.ball.random_point(images, generator)
            run = climb(search.target, images, labels, start, ball=search.ball, steps=STEPS, loss=margin_loss)
            search.learn(at, run)


def further_steps(search: Search) -> None:
    """Continue from the nearest point so far, towards the two nearest classes, if at most 10% of the gap remains."""
    _continue(search, FURTHER_STEPS, within=0.1)


def last_steps(search: Search) -> None:
    """Continue once more, with more steps, if at most 5% of the gap remains."""
    _continue(search, LAST_STEPS, within=0.05)


def _continue(search: Search, steps: int, *, within: float) -> None:
    for rank in range(min(2, search.num_classes - 1)):
        near = search.closest(search.left, within=within)
        for at, targets in search.batches_towards(near, search.ranked(near)[:, rank]):
            run = climb(
                search.target,
                search.images[at],
                search.labels[at],
                search.nearest[at],
                ball=search.ball,
                steps=steps,
                loss=ratio_loss,
                targets=targets,
            )
            search.learn(at, run)


def shrinking_slowly(search: Search) -> None:
    """Target the two nearest classes through five balls, on the margin, for images that may still break.

    These were misclassified within 1.4 epsilon before, and at most 30% of the gap remains.
    """
    for rank in range(min(2, search.num_classes - 1)):
        near = search.closest(search.left, within=0.3)
        near = near[search.reached[near]]
        for at, targets in search.batches_towards(near, search.ranked(near)[:, rank]):
            _shrink(search, at, SHRINKING_SLOWLY, margin_loss, targets)


def straight_through(search: Search, *, in_place: bool) -> None:
    """Repeat the stages with the gradient of `StraightThrough`, for a model that cuts its own.

    They end at once if that gradient fails for some images; what was found until then counts.
    """
    with ExitStack() as stack:
        stack.enter_context(suppress(IbrobustError))
        through = StraightThrough(search.model)
        stack.enter_context(through.passes(in_place=in_place))
        stack.enter_context(search.attacking(through))
        for at in search.batches(search.left):
            images, labels = search.images[at], search.labels[at]
            run = climb(search.target, images, labels, images, ball=search.ball, steps=STEPS, loss=margin_loss)
            search.learn(at, run)
        for stage in (from_larger_ball, towards_each_class, further_steps, shrinking_slowly, last_steps):
            if len(search.left):
                stage(search)


def beyond_the_boundary(search: Search, positions: Tensor) -> None:
    """Maximise the margin of broken images further: one that was stopped at the boundary is right on other draws."""
    for at in search.batches(positions):
        images, labels, start = search.images[at], search.labels[at], search.adversarial[at]
        run = climb(search.target, images, labels, start, ball=search.ball, steps=STEPS, loss=margin_loss, stop=False)
        search.prefer(at, run.last)


def _shrink(
    search: Search,
    at: Tensor,
    radii: Sequence[tuple[float, int]],
    loss: AimedLoss,
    targets: Tensor | None,
    *,
    start_within: float = 0.0,
) -> None:
    """Maximise in one ball after the other, each from the projected end of the last.

    An image is given up if a larger ball ends at a point that is still classified correctly; after the first ball, if
    more than the share `start_within` of the clean margin remains there.
    """
    points = search.images[at]
    for number, (factor, steps) in enumerate(radii):
        images = search.images[at]
        run = climb(
            search.target,
            images,
            search.labels[at],
            search.ball.project(points, images, factor),
            ball=search.ball,
            steps=steps,
            loss=loss,
            targets=targets,
            factor=factor,
            # Long steps find a region; shorter ones then stay in it.
            first_step=2.0 if number == 0 else 1.0,
        )
        broken = search.learn(at, run, factor=factor)
        stays = ~broken
        if factor > 1.0:
            near = run.margins >= -start_within * search.clean_margin[at] if number == 0 else run.reached
            stays &= near | run.reached
        at, points, targets = at[stays], run.last[stays], None if targets is None else targets[stays]
        if len(at) == 0:
            break


def by_linearised_distance(search: Search, positions: Tensor, order: Tensor) -> Tensor:
    """Return the first classes of `order` (M, K - 1) by (z_y - z_t) / |gradient|, the nearest first (Melamed et al.
    2024, MALT).

    It is computed at the image, for the first `LINEARISED` of them, with one backward pass each.
    """
    out = []
    first = order[:, :LINEARISED]
    dual = 1.0 if search.ball.norm == "Linf" else 2.0
    for at, classes in zip(search.batches(positions), first.split(search.batch_size), strict=True):
        points = search.images[at].clone().requires_grad_()
        own = search.labels[at][:, None]
        with torch.enable_grad():
            logits = search.target(points)
            gaps = logits.gather(1, own) - logits.gather(1, classes)  # (B, T)
            lengths = []
            for column in range(gaps.shape[1]):
                (gradient,) = torch.autograd.grad(gaps[:, column].sum(), points, retain_graph=True)
                lengths.append(torch.linalg.vector_norm(gradient.flatten(1), ord=dual, dim=1))
        distances = gaps.detach() / torch.stack(lengths, dim=1).clamp(min=1e-30)
        out.append(classes.gather(1, distances.nan_to_num(torch.inf).argsort(dim=1, stable=True)))
    return torch.cat(out) if out else first
