"""What a card's stored results become in lists: the worst case of each attack that searches long, and upper bounds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.reporting.card_tables import withstood_table
from ibrobust.reporting.model_rows import model_rows, withstood

EPSILON = 8 / 255


def card(*results: AttackResult, audit: dict | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        name="mine",
        decoders=["head"],
        dataset=SimpleNamespace(name="digits"),
        recipe=None,
        clean_accuracy={},
        evaluations={
            "attacks": {"head": {"results": [result.summary() for result in results]}},
            "audit": {"head": audit} if audit else {},
        },
    )


def attacked(attack: str, *flags: str) -> AttackResult:
    return AttackResult(attack, "Linf", EPSILON, (True,) * 4, (True, False, False, False), 0, 0, flags)


@pytest.mark.parametrize("attack", ["WorstCase", "WorstCase:escalate=true", "AutoAttack:n_iter=20"])
def test_an_attack_that_searches_long_is_the_worst_case(attack: str) -> None:
    (row,) = model_rows(card(attacked(attack), attacked("PGD")), epsilon=EPSILON, size=None)
    assert row.worst_case == 0.25


def test_the_table_marks_the_upper_bounds() -> None:
    audit = {"epsilon": EPSILON, "worst_case_accuracy": 0.5, "n": 4, "upper_bound": True}
    one = card(attacked("WorstCase", "The gradient is exactly zero."), attacked("PGD"), audit=audit)
    console = Console(width=100)
    with console.capture() as text:
        console.print(withstood_table(one, withstood(one)))
    lines = text.get().splitlines()
    (worst,), (pgd,), (audited,) = (
        [line for line in lines if name in line] for name in ("WorstCase", "PGD", "audit, worst")
    )
    assert worst.split()[-1] == "≤25.0"
    assert pgd.split()[-1] == "25.0"
    assert audited.split()[-1] == "≤50.0"
