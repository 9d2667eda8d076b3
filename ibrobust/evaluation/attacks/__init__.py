"""Attacks: from their options to a record for every image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.evaluation.attacks.attack import Attack, NamedAttack
    from ibrobust.evaluation.attacks.by_name import create_attack, read_attack
    from ibrobust.evaluation.attacks.comparison import PairedDifference, paired_difference
    from ibrobust.evaluation.attacks.function_attack import FunctionAttack
    from ibrobust.evaluation.attacks.over_attacks import worst_case
    from ibrobust.evaluation.attacks.own_attacks import FGSM, PGD, AutoAttack, WorstCase
    from ibrobust.evaluation.attacks.result import AttackResult
    from ibrobust.evaluation.attacks.run import run_attacks
    from ibrobust.evaluation.attacks.surrogate import Transfer
    from ibrobust.evaluation.attacks.text_form import list_attacks

_HOMES = {
    "ibrobust.evaluation.attacks.own_attacks": "FGSM PGD AutoAttack WorstCase",
    "ibrobust.evaluation.attacks.attack": "NamedAttack Attack",
    "ibrobust.evaluation.attacks.result": "AttackResult",
    "ibrobust.evaluation.attacks.function_attack": "FunctionAttack",
    "ibrobust.evaluation.attacks.comparison": "PairedDifference paired_difference",
    "ibrobust.evaluation.attacks.surrogate": "Transfer",
    "ibrobust.evaluation.attacks.by_name": "create_attack read_attack",
    "ibrobust.evaluation.attacks.text_form": "list_attacks",
    "ibrobust.evaluation.attacks.run": "run_attacks",
    "ibrobust.evaluation.attacks.over_attacks": "worst_case",
}

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "FunctionAttack",
    "NamedAttack",
    "PairedDifference",
    "Transfer",
    "WorstCase",
    "create_attack",
    "list_attacks",
    "paired_difference",
    "read_attack",
    "run_attacks",
    "worst_case",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
