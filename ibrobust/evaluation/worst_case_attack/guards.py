"""Stages without the gradient of a loss, and warnings about the model's gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.evaluation.attacks.autoattack import square_takes
from ibrobust.evaluation.guarded_model import LibraryModel
from ibrobust.evaluation.worst_case_attack.search import Search

# Survivors for a first trial of the guards, and for FAB: one in so many of all images, but not fewer than that.
WATCHED_ONE_IN, LEAST_WATCHED = 16, 16
FAB_ONE_IN, MORE_FAB_ONE_IN, LEAST_FAB = 125, 10, 4
CORNERS = 20
QUERIES = 100
MORE_QUERIES = 2000
FAB_STEPS, MORE_FAB_STEPS, FAB_TARGETS = 40, 100, 3
# Of the correct images: broken by better starts and targets after the untargeted steps. Beyond it, gradients mislead.
MISLED = 0.03
TOLERATED = 0.002  # of all images, as for AutoAttack's own warning about Square


def watched(search: Search) -> Tensor:
    """Return the positions (M,) of the survivors nearest to another class, for a first trial of the guards."""
    return search.closest(search.left)[: max(LEAST_WATCHED, len(search.images) // WATCHED_ONE_IN)]


def random_corners(search: Search, positions: Tensor, seed: int) -> None:
    """Try random corners of the ball."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(CORNERS):
        for at in search.batches(positions[~search.broken[positions]]):
            search.offer(at, search.ball.corner(search.images[at], generator))


def square(search: Search, positions: Tensor, seed: int, queries: int) -> None:
    """Run Square (Andriushchenko et al. 2020), a random search that only needs logits."""
    from pyautoattack.square import SquareAttack

    if not square_takes(search.images, search.ball.norm):
        return
    attack = SquareAttack(
        LibraryModel(search.target),
        norm=search.ball.norm,
        n_queries=queries,
        eps=search.ball.epsilon,
        n_restarts=1,
        seed=seed,
        device=search.images.device,
    )
    for at in search.batches(positions[~search.broken[positions]]):
        images = search.images[at]
        with torch.no_grad():
            found = attack.perturb(images.float(), search.labels[at])
        search.offer(at, search.ball.project(found.to(images), images))


def fast_adaptive_boundary(search: Search, seed: int, *, one_in: int = FAB_ONE_IN, misled: bool = False) -> None:
    """Run FAB-T (Croce and Hein 2020), which follows the decision boundary, on the survivors nearest to it.

    Args:
        search: the search so far.
        seed: of FAB.
        one_in: at most one in so many images is attacked, but not fewer than `LEAST_FAB`.
        misled: the model's gradients mislead. The other stages then say little about which survivors are near, so
            none is left out for its margin, and FAB makes more steps.
    """
    from pyautoattack.fab_pt import FABAttack_PT

    attack = FABAttack_PT(
        LibraryModel(search.target),
        norm=search.ball.norm,
        n_restarts=1,
        n_iter=MORE_FAB_STEPS if misled else FAB_STEPS,
        eps=search.ball.epsilon,
        seed=seed,
        targeted=True,
        device=search.images.device,
        n_target_classes=min(FAB_TARGETS, search.num_classes - 1),
    )
    near = search.closest(search.left) if misled else search.closest(search.left, within=0.3)
    near = (near if misled else near[search.reached[near]])[: max(LEAST_FAB, len(search.images) // one_in)]
    for at in search.batches(near):
        images = search.images[at]
        with torch.no_grad():
            found = attack.perturb(images.float(), search.labels[at])
        search.offer(at, search.ball.project(found.to(images), images))


def warnings(search: Search, *, by_guards: int) -> tuple[str, ...]:
    """Return a sentence for each sign that the gradient is misleading."""
    right = max(int(search.clean.sum()), 1)
    zero, nonfinite = int((search.zero & search.clean).sum()), int((search.nonfinite & search.clean).sum())
    found = []
    if zero > 0.01 * right:
        found.append(f"The gradient is exactly zero at {zero} of {right} images.")
    if nonfinite:
        found.append(f"A gradient was no number for {nonfinite} of {right} images.")
    if search.transferred > max(1, 0.01 * right):
        found.append(
            f"Images that break the surrogate broke {search.transferred} of {right} images that the gradient left."
        )
    if by_guards > TOLERATED * len(search.images):
        found.append(f"Attacks without a gradient broke {by_guards} images that the gradient left.")
    return tuple(found)
