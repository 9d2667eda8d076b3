"""Is the robustness real? How much of a claim the worst case leaves."""

from __future__ import annotations

from dataclasses import dataclass

from ibrobust.evaluation.statistics import interval

MOST = 0.8  # of the claim: real
LITTLE = 0.2  # of the claim: not real
HALF = 0.5


@dataclass(frozen=True)
class Claim:
    """A robust accuracy that somebody reports.

    Attributes:
        accuracy: in [0, 1], at the audit's epsilon.
        source: what it was measured with, such as FGSM; "claimed" for a number that was given.
        correct: images of the audit that are correct under that attack, if the worst case includes the attack.
    """

    accuracy: float
    source: str
    correct: int | None = None


@dataclass(frozen=True)
class Kept:
    """The share of a claim that the worst case leaves, with its exact 95% interval (Clopper-Pearson).

    A claim of 0 leaves nothing to keep: the share is 0 then, in [0, 1].
    """

    share: float
    low: float
    high: float


def share_kept(claim: Claim, correct: int, total: int) -> Kept:
    """Return the share of the claim that is left with `correct` of `total` images in the worst case."""
    if claim.accuracy == 0.0:
        return Kept(0.0, 0.0, 1.0)
    if claim.correct is not None:
        # Every image that is left in the worst case is left by the claimed attack too: a share of those.
        return Kept(correct / claim.correct, *interval(correct, claim.correct))
    low, high = (bound / claim.accuracy for bound in interval(correct, total))
    return Kept(correct / total / claim.accuracy, low, high)


def is_it_real(kept: Kept, correct: int, total: int, *, chance: float, upper_bound: bool) -> str:
    """Return `real`, `partly real`, `not real` or `undecided`.

    `chance` is the accuracy that a constant answer keeps at any epsilon, see `guessing_accuracy`.

    - not real: at most `LITTLE` of the claim is left, and less than half with 95% confidence; or the worst-case
      accuracy is at most chance, and less than half with 95% confidence.
    - real: at least `MOST` of the claim is left, more than half with 95% confidence, and the worst-case accuracy is
      above chance with 95% confidence.
    - partly real: between the two.
    - undecided: there are too few images for one of these, the worst-case accuracy is at most chance, or the worst case
      is known to be an upper bound only and the answer would not be `not real`.
    """
    low, high = interval(correct, total)
    if correct / total <= chance and high < HALF:
        return "not real"
    if kept.share <= LITTLE or correct / total <= chance:
        return "not real" if kept.high < HALF else "undecided"
    if upper_bound:
        return "undecided"
    if kept.share >= MOST:
        return "real" if kept.low > HALF and low > chance else "undecided"
    return "undecided" if kept.low <= LITTLE and kept.high >= MOST else "partly real"
