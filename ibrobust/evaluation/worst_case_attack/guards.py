"""Stages without the gradient of a loss, and warnings about the model's gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ibrobust.correctness import is_correct
from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.attacks.pgd import loss_gradient
from ibrobust.evaluation.gradient_lines import UNEXPLAINED, UNEXPLAINED_AT_RANDOM
from ibrobust.evaluation.smoothed_gradient import SmoothedGradient
from ibrobust.evaluation.statistics import exceeds
from ibrobust.evaluation.worst_case_attack.ascent import climb, margin_loss
from ibrobust.evaluation.worst_case_attack.boundary import follow_boundary, walk_on_boundary
from ibrobust.evaluation.worst_case_attack.search import Search
from ibrobust.evaluation.worst_case_attack.square import square
from ibrobust.seeds import evaluation_seed

SHORT_STEPS, BOUNDARY_WALK, SMOOTHED = "short steps", "boundary walk", "smoothed gradient"  # names of stages
# Survivors for a first trial of the guards, and for FAB: one in so many of all images, but not fewer than that.
WATCHED_ONE_IN, LEAST_WATCHED = 16, 16
LEAST_FAB = 8
CORNERS = 20
SMOOTHED_STEPS, OWN_STEPS, OWN_FIRST_STEP = 20, 10, 0.1
DRAWS, MORE_DRAWS = 4, 16  # points for a smoothed gradient, in the first trial and if it breaks images
WALK_STEPS, WALK_STARTS, MORE_WALK_STARTS = 6, 2, 6
STEPS_PER_BALL, SHORT_STEP = 15, 0.05  # in each of these balls; the length of the largest pixel's step, in radii
GROWING = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
QUERIES = 100
MORE_QUERIES = 2000
# Of the correct images: broken by better starts and targets after the untargeted steps. Beyond it, gradients mislead.
MISLED = 0.03
TOLERATED = 0.002  # of all images, as for AutoAttack's own warning about Square
FEW_BY_FAB = 0.1  # of the images that FAB attacks
WRONG_LINES = 0.05  # of the lines in random directions: a kink may spoil one
# Of what the untargeted steps left, and at least two: images whose margin never rose. No shipped model has any.
STUCK, FEWEST_STUCK = 0.05, 2


@dataclass(frozen=True)
class FabEffort:
    """How many images FAB attacks, and towards which classes.

    Attributes:
        one_in: at most one in so many images is attacked, but not fewer than `LEAST_FAB`.
        targets: ranks of the classes, 0 is the nearest.
    """

    one_in: int
    targets: range

    def most(self, num_images: int) -> int:
        """Return the largest number of images that are attacked together, of so many in all."""
        return max(LEAST_FAB, num_images // self.one_in)


FAB = FabEffort(one_in=125, targets=range(3))
MORE_FAB = FabEffort(one_in=10, targets=range(3))
# Further classes cost twice as much and break few: 2 of 13 images on one model at 4/255, 1 of 193 at 2/255.
FAB_FURTHER = FabEffort(one_in=50, targets=range(3, 9))
# FAB comes near late: on one model a patience of 20 left 39 of 94 images, 50 left 8.
FAB_STEPS, FAB_PATIENCE = 100, 50


def watched(search: Search) -> Tensor:
    """Return the positions (M,) of survivors for a first trial of the guards.

    Half of them are those whose margin never rose and then those nearest to another class. The others are spread evenly
    over the rest: a gradient that misleads makes near images look far away.
    """
    survivors = search.closest(search.left)
    stuck = search.stuck[survivors]
    survivors = torch.cat([survivors[stuck], survivors[~stuck]])
    count = min(max(LEAST_WATCHED, len(search.images) // WATCHED_ONE_IN), len(survivors))
    near, rest = survivors[: count // 2], survivors[count // 2 :]
    spread = torch.arange(count - len(near), device=rest.device) * len(rest) // max(count - len(near), 1)
    return torch.cat([near, rest[spread]])


def follow_smoothed_gradient(search: Search, positions: Tensor, seed: int, more: bool) -> None:
    """Maximise the margin along gradients that are averaged over the ball, then along the model's own.

    The smoothed gradient finds a hill of the margin, and short steps of the own gradient a summit of its ripples.
    """
    draws = MORE_DRAWS if more else DRAWS
    seed = evaluation_seed(seed, SMOOTHED, draws)
    model, ball = SmoothedGradient(search.target, search.ball, draws=draws, seed=seed), search.ball
    # The graphs of all draws are in memory together.
    for at in positions[~search.broken[positions]].split(max(search.batch_size // draws, 1)):
        images, labels = search.images[at], search.labels[at]
        run = climb(model, images, labels, images, ball=ball, steps=SMOOTHED_STEPS, loss=margin_loss)
        # Only what was found counts: the other stages know the classes' nearness from the model's own gradient.
        left = ~search.offer(at, run.found)
        at, images, labels, start = at[left], images[left], labels[left], run.last[left]
        if len(at):
            run = climb(
                search.target,
                images,
                labels,
                start,
                ball=ball,
                steps=OWN_STEPS,
                loss=margin_loss,
                first_step=OWN_FIRST_STEP,
            )
            search.offer(at, run.found)


def walk_from_other_images(search: Search, positions: Tensor, seed: int, more: bool) -> None:
    """Walk on the decision boundary, from the lines to the nearest images that the model takes for another class."""
    del seed  # it draws no random numbers
    starts = MORE_WALK_STARTS if more else WALK_STARTS
    for at in search.batches(positions[~search.broken[positions]]):
        # In parts: for its matrix product, torch copies the images on both sides.
        own, parts = search.images[at].flatten(1), search.images.split(search.batch_size)
        apart = torch.cat([torch.cdist(own, part.flatten(1)) for part in parts], dim=1)  # (B, N)
        apart = apart.masked_fill(search.predictions[None] == search.labels[at][:, None], torch.inf)
        near = apart.topk(min(starts, apart.shape[1]), dim=1, largest=False)
        for distances, others in zip(near.values.T, near.indices.T, strict=True):
            there = distances.isfinite() & ~search.broken[at]
            on, ends = at[there], search.images[others[there]]
            images, labels = search.images[on], search.labels[on]
            found = walk_on_boundary(search.target, images, labels, ends, ball=search.ball, steps=WALK_STEPS)
            search.offer(on, found)


def take_short_steps(search: Search, positions: Tensor, seed: int, more: bool) -> None:
    """Maximise the margin in growing balls, in steps along the gradient itself and not its signs.

    The other stages begin with steps as long as the ball, so they see the gradient at the image and then far from it.
    """
    del seed, more  # each trial is the same
    ball = search.ball
    for at in search.batches(positions[~search.broken[positions]]):
        points = search.images[at]
        for factor in (factor for factor in GROWING for _ in range(STEPS_PER_BALL)):
            images, labels = search.images[at], search.labels[at]
            gradient, _, logits = loss_gradient(search.target, points, labels, margin)
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
            wrong = ~is_correct(logits, labels)
            search.offer(at[wrong], points[wrong])
            points = ball.project(points + SHORT_STEP * ball.epsilon * gradient / largest, images, factor)
            at, points = at[~wrong], points[~wrong]
            if len(at) == 0:
                break
        search.offer(at, points)


@dataclass(frozen=True)
class ExtraAttack:
    """An attack that tells whether the steps along the gradient of a loss end at the wrong places.

    Attributes:
        attack: called with the search, the positions of the attacked images, the seed, and whether it is the second,
            stronger trial.
        warning: what it says if it breaks many of the images that are left, with the place of their number.
    """

    attack: Callable[[Search, Tensor, int, bool], None]
    warning: str


# By the name of the stage.
EXTRA_ATTACKS = {
    SHORT_STEPS: ExtraAttack(
        take_short_steps, "Short steps along the gradient broke {} images that longer steps left."
    ),
    BOUNDARY_WALK: ExtraAttack(
        walk_from_other_images, "A walk on the decision boundary broke {} images that the gradient of the losses left."
    ),
    SMOOTHED: ExtraAttack(
        follow_smoothed_gradient,
        "A gradient that is averaged over the ball broke {} images that the model's own gradient left.",
    ),
}


def random_corners(search: Search, positions: Tensor, seed: int) -> None:
    """Try random corners of the ball."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(CORNERS):
        for at in search.batches(positions[~search.broken[positions]]):
            search.offer(at, search.ball.corner(search.images[at], generator))


def search_by_square(search: Search, positions: Tensor, seed: int, queries: int) -> None:
    """Run Square, a random search, or on images that are too small for it another one."""
    generator = torch.Generator().manual_seed(seed)
    for at in search.batches(positions[~search.broken[positions]]):
        images, labels = search.images[at], search.labels[at]
        found = square(search.target, images, labels, ball=search.ball, queries=queries, generator=generator)
        search.offer(at, found)


def fast_adaptive_boundary(search: Search, *, effort: FabEffort, continues: bool) -> None:
    """Run FAB-T (Croce and Hein 2020), which follows the decision boundary, on the survivors nearest to it.

    If it `continues`, as many survivors follow as long as more than `TOLERATED` of all images were broken among the
    last.
    """
    survivors = search.closest(search.left)
    for near in survivors.split(effort.most(len(search.images))):
        _follow_boundary(search, near, effort.targets)
        if not continues or int(search.broken[near].sum()) <= TOLERATED * len(search.images):
            break


def fab_breaks_many(broken: int, left: int, effort: FabEffort, num_images: int) -> bool:
    """Return whether so many broken images say that FAB would break many of those that it did not attack.

    It attacks the nearest of what is `left`, of which it breaks a few of any model.
    """
    tried = min(effort.most(num_images), left)
    return broken > TOLERATED * num_images and exceeds(broken, tried, FEW_BY_FAB)


def _follow_boundary(search: Search, near: Tensor, targets: range) -> None:
    for rank in (rank for rank in targets if rank < search.num_classes - 1):
        unbroken = near[~search.broken[near]]
        for at, classes in search.batches_towards(unbroken, search.ranked(unbroken)[:, rank]):
            images = search.images[at]
            found, _ = follow_boundary(
                search.target,
                images,
                search.labels[at],
                classes,
                ball=search.ball,
                steps=FAB_STEPS,
                patience=FAB_PATIENCE,
            )
            search.offer(at, search.ball.project(found, images))


def line_warnings(between: Tensor, at_random: Tensor) -> tuple[str, ...]:
    """Return a sentence for each kind of lines along which the gradient does not add up.

    Args:
        between: (L,) of `unexplained_shares`; empty if it was not measured, as for a model that draws random numbers.
        at_random: (L,) of `unexplained_at_random`, likewise.
    """
    found = []
    if len(between) and float(between.median()) > UNEXPLAINED:
        found.append(
            f"The gradient does not explain {100 * min(float(between.median()), 1.0):.0f}% of the change between "
            f"images (median of {len(between)} lines)."
        )
    wrong = int((at_random > UNEXPLAINED_AT_RANDOM).sum())
    if exceeds(wrong, len(at_random), WRONG_LINES):
        found.append(
            f"From {wrong} of {len(at_random)} images in a random direction, the gradient does not explain the change "
            "of the logits."
        )
    return tuple(found)


def warnings(
    search: Search,
    *,
    by_untargeted: int,
    cuts: Sequence[str],
    past_cuts: int,
    by_lines: Sequence[str],
    by_others: Mapping[str, int],
    by_guards: int,
) -> tuple[str, ...]:
    """Return a sentence for each sign that the gradient is misleading.

    Args:
        search: after the stages.
        by_untargeted: images that the untargeted steps left.
        cuts: the operations of the model that cut its gradient.
        past_cuts: images that the gradient past the model's cuts broke, and its own did not.
        by_lines: the sentences of `line_warnings`.
        by_others: images that each of `EXTRA_ATTACKS` broke.
        by_guards: images that attacks without a gradient broke.
    """
    right = max(int(search.clean.sum()), 1)
    zero, nonfinite = int((search.zero & search.clean).sum()), int((search.nonfinite & search.clean).sum())
    found = []
    if zero > 0.01 * right:
        found.append(f"The gradient is exactly zero at {zero} of {right} images.")
    if nonfinite:
        found.append(f"The gradient is NaN or infinite for {nonfinite} of {right} images.")
    stuck = int((search.stuck & search.clean & ~search.zero & ~search.nonfinite).sum())  # the others are named above
    if stuck >= FEWEST_STUCK and exceeds(stuck, by_untargeted, STUCK):
        found.append(f"For {stuck} of the {by_untargeted} images that 20 steps left, the margin never rose.")
    if search.transferred > max(1, 0.01 * right):
        found.append(
            f"Images that break the surrogate broke {search.transferred} of {right} images that the gradient left."
        )
    if past_cuts > TOLERATED * len(search.images):
        found.append(
            f"The model cuts its gradient ({', '.join(cuts)}): a gradient that passes straight through broke "
            f"{past_cuts} images that its own gradient left."
        )
    found += by_lines
    for name, broken in by_others.items():
        if broken > max(1, TOLERATED * len(search.images)):  # one may be luck: it is another attack
            found.append(EXTRA_ATTACKS[name].warning.format(broken))
    if by_guards > TOLERATED * len(search.images):
        found.append(f"Attacks without a gradient broke {by_guards} images that the gradient left.")
    return tuple(found)
