"""The worst case is taken image by image."""

from __future__ import annotations

from dataclasses import replace

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


def test_a_warning_at_a_smaller_epsilon_is_none_at_a_larger_one() -> None:
    """What was left at 0.1 with a warning may be broken at 0.2 without one."""
    warned = replace(_result("A", 0.1, "1111"), flags=("careful",))
    small, large = worst_case([warned, _result("A", 0.2, "1111")])
    assert (small.flags, large.flags) == (("careful",), ())


def test_nan_gradients_at_a_smaller_epsilon_count_at_a_larger_one() -> None:
    """An image that is broken at 0.1 counts as broken at 0.2, whatever broke it."""
    counts = {0.1: 5, 0.2: 2}
    worst = worst_case([replace(_result("A", at, "1111"), nonfinite_gradient=n) for at, n in counts.items()])
    assert [case.nonfinite_gradient for case in worst] == [5, 5]


@pytest.mark.parametrize(
    ("versions", "expected"), [({"WorstCase": 4, "WorstCase:escalate=true": 2, "PGD": 1}, 2), ({"PGD": 1}, 1)]
)
def test_it_has_the_oldest_version_of_the_worst_case_attack_in_it(versions: dict[str, int], expected: int) -> None:
    results = [replace(_result(name, 0.1, "1111"), attack_version=version) for name, version in versions.items()]
    (worst,) = worst_case(results)
    assert worst.attack_version == expected


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
