"""The worst case over attacks, image by image."""

from __future__ import annotations

from collections.abc import Sequence

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.records import WORST_CASE_OF


def agree_without_attack(results: Sequence[AttackResult]) -> bool:
    """Return whether the same images are correct without an attack in all records: else they have no worst case.

    AutoAttack, WorstCase and the other attacks judge a model that draws random numbers on draws of their own.
    """
    return len({result.clean_correct for result in results}) <= 1


def worst_case(results: Sequence[AttackResult]) -> list[AttackResult]:
    """Return one record per epsilon, in rising order: an image is correct if no attack breaks it.

    The minimum of the averages would be too high: if each of two attacks breaks another half of the images, no image
    survives both. An image that is broken at a smaller epsilon is broken at every larger one, because the larger ball
    contains the same adversarial image.

    Args:
        results: records of one model on the same images, in one norm.

    Raises:
        IbrobustError: no records are given, or they are not of the same images or norm.
    """
    if not results:
        raise IbrobustError("The worst case needs the result of at least one attack: call run_attacks first.")
    first = results[0]
    for result in results:
        if result.clean_correct != first.clean_correct:
            raise IbrobustError(
                f"{result.attack} was run on other images or another model than {first.attack}, or the model draws "
                "random numbers: the worst case needs the same images to be correct without an attack."
            )
        if result.norm != first.norm:
            raise IbrobustError(
                f"{result.attack} is in {result.norm}, but {first.attack} in {first.norm}: take the worst case of "
                "each norm on its own."
            )
    names = list(dict.fromkeys(result.attack for result in results))
    # The oldest: a result at a smaller epsilon counts at the larger ones too.
    version = min((r.attack_version for r in results if r.attack.startswith("WorstCase")), default=1)
    worst = []
    for epsilon in sorted({result.epsilon for result in results}):
        within = [result.robust_correct for result in results if result.epsilon <= epsilon]
        right = tuple(all(image) for image in zip(*within, strict=True))
        flags = dict.fromkeys(flag for result in results if result.epsilon == epsilon for flag in result.flags)
        nonfinite = max(result.nonfinite_gradient for result in results if result.epsilon <= epsilon)
        worst.append(
            AttackResult(
                attack=f"{WORST_CASE_OF}{', '.join(names)}",
                norm=first.norm,
                epsilon=epsilon,
                clean_correct=first.clean_correct,
                attacked_correct=right,
                nonfinite_gradient=nonfinite,
                seed=first.seed,
                flags=tuple(flags),
                attack_version=version,
            )
        )
    return worst
