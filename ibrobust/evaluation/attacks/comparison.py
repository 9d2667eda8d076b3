"""Two models under the same attack, compared image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.result import AttackResult


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two robust accuracies on the same images.

    Attributes:
        value: in [-1, 1].
        standard_error: of the value, over the draw of the images, for fixed models.
        total: images.
    """

    value: float
    standard_error: float
    total: int


def paired_difference(result: AttackResult, baseline: AttackResult) -> PairedDifference:
    """Return a model's robust accuracy minus a baseline's.

    Images that are hard for one model are often hard for another. So the error of the difference, which comes from the
    images on which the two disagree, is smaller than the errors of the two accuracies suggest.

    Args:
        result: of the model.
        baseline: of the baseline, for the same images in the same order, in the same ball.

    Raises:
        IbrobustError: they are of different balls or numbers of images, or of fewer than two.
    """
    for one, other, what in (
        (result.norm, baseline.norm, "norm"),
        (result.epsilon, baseline.epsilon, "epsilon"),
        (result.total, baseline.total, "number of images"),
    ):
        if one != other:
            raise IbrobustError(f"The {what} is {one} in one result and {other} in the other: both must be equal.")
    total = result.total
    if total < 2:
        raise IbrobustError(f"A difference over {total} images has no standard error: at least 2 are needed.")
    robust = zip(result.robust_correct, baseline.robust_correct, strict=True)
    differences = [int(one) - int(other) for one, other in robust]
    mean = sum(differences) / total
    variance = sum((difference - mean) ** 2 for difference in differences) / (total - 1)
    return PairedDifference(mean, math.sqrt(variance / total), total)
