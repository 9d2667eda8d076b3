"""Differences between models over the same images."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.comparison import paired_difference
from ibrobust.evaluation.attacks.result import AttackResult


def _result(right: np.ndarray, *, epsilon: float = 0.1, norm: str = "Linf") -> AttackResult:
    bits = tuple(bool(bit) for bit in right)
    return AttackResult("A", norm, epsilon, (True,) * len(bits), bits, 0, 0)


def test_against_scipys_paired_t_statistic() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.random(400) < 0.3
    model = baseline ^ (rng.random(400) < 0.1)
    found = paired_difference(_result(model), _result(baseline))
    expected = scipy.stats.ttest_rel(model.astype(float), baseline.astype(float))
    assert found.value == pytest.approx(model.mean() - baseline.mean())
    assert found.value / found.standard_error == pytest.approx(expected.statistic)


def test_an_image_that_is_wrong_without_an_attack_counts_for_neither() -> None:
    under_attack = _result(np.array([1, 1, 0, 0]))
    one_less = AttackResult("A", "Linf", 0.1, (False, True, True, True), under_attack.attacked_correct, 0, 0)
    assert paired_difference(one_less, under_attack).value == -0.25


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (_result(np.ones(4), epsilon=0.2), "epsilon is 0.2"),
        (_result(np.ones(4), norm="L2"), "norm is L2"),
        (_result(np.ones(5)), "number of images is 5"),
    ],
)
def test_what_cannot_be_compared(other: AttackResult, message: str) -> None:
    with pytest.raises(IbrobustError, match=message):
        paired_difference(other, _result(np.ones(4)))


def test_one_image_is_too_few() -> None:
    with pytest.raises(IbrobustError, match="at least 2"):
        paired_difference(_result(np.ones(1)), _result(np.ones(1)))
