"""How sure a count of images makes us."""

from __future__ import annotations

from scipy.stats import beta, binom

CONFIDENCE = 0.95


def lower_bound(count: int, total: int) -> float:
    """Return the one-sided 95% lower bound of a share of which `count` in `total` were seen (Clopper-Pearson)."""
    return 0.0 if count == 0 else float(beta.ppf(1.0 - CONFIDENCE, count, total - count + 1))


def interval(count: int, total: int) -> tuple[float, float]:
    """Return the two-sided 95% interval of a share of which `count` in `total` were seen (Clopper-Pearson)."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(1.0 - tail, count + 1, total - count))
    return low, high


def chance_ceiling(total: int, chance: float) -> int:
    """Return the count that a guesser who is right with probability `chance` exceeds once in a hundred times."""
    return int(binom.ppf(0.99, total, chance))


def exceeds(count: int, total: int, tolerated: float) -> bool:
    """Return whether the share is above `tolerated` with 95% confidence, so that a few images raise no alarm."""
    return total > 0 and lower_bound(count, total) > tolerated


def more_often(one: int, other: int) -> bool:
    """Return whether `one` happens more often than `other` with 95% confidence (exact sign test of paired counts)."""
    return float(binom.sf(one - 1, one + other, 0.5)) < 1.0 - CONFIDENCE
