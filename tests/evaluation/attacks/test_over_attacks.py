"""The worst case is taken image by image."""

from __future__ import annotations

import pytest

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.over_attacks import worst_case
from ibrobust.evaluation.attacks.result import AttackResult

CLEAN = (True, True, True, False)


def _result(attack: str, epsilon: float, bits: str, *, norm: str = "Linf", clean: tuple = CLEAN) -> AttackResult:
    return AttackResult(attack, norm, epsilon, clean, tuple(bit == "1" for bit in bits), 0, 0)


def test_two_halves_make_a_whole() -> None:
    (worst,) = worst_case([_result("A", 0.1, "1100"), _result("B", 0.1, "0010")])
    assert worst.robust_accuracy == 0.0


def test_an_image_that_was_wrong_without_an_attack_does_not_become_right() -> None:
    (worst,) = worst_case([_result("A", 0.1, "1111")])
    assert worst.robust_correct == CLEAN


def test_what_is_broken_in_a_ball_is_broken_in_a_larger_one() -> None:
    small, large = worst_case([_result("A", 0.2, "1110"), _result("A", 0.1, "0110")])
    assert (small.epsilon, large.epsilon) == (0.1, 0.2)
    assert large.robust_correct == (False, True, True, False)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (_result("B", 0.1, "1110", norm="L2"), "is in L2"),
        (_result("B", 0.1, "1110", clean=(True, True, True, True)), "other images"),
    ],
)
def test_what_cannot_be_compared(other: AttackResult, message: str) -> None:
    with pytest.raises(IbrobustError, match=message):
        worst_case([_result("A", 0.1, "1110"), other])


def test_nothing_to_compare() -> None:
    with pytest.raises(IbrobustError, match="needs the result of at least one attack"):
        worst_case([])
