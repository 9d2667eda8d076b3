"""Attacks by name: from their options to a record for every image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.evaluation.attacks.comparison import PairedDifference, paired_difference
    from ibrobust.evaluation.attacks.result import AttackResult
    from ibrobust.evaluation.attacks.run import run_attacks
    from ibrobust.evaluation.attacks.spec import AttackSpec, attack_names, parse_attack

_HOMES = {
    "AttackResult": "ibrobust.evaluation.attacks.result",
    "AttackSpec": "ibrobust.evaluation.attacks.spec",
    "PairedDifference": "ibrobust.evaluation.attacks.comparison",
    "attack_names": "ibrobust.evaluation.attacks.spec",
    "paired_difference": "ibrobust.evaluation.attacks.comparison",
    "parse_attack": "ibrobust.evaluation.attacks.spec",
    "run_attacks": "ibrobust.evaluation.attacks.run",
}

__all__ = [
    "AttackResult",
    "AttackSpec",
    "PairedDifference",
    "attack_names",
    "paired_difference",
    "parse_attack",
    "run_attacks",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
