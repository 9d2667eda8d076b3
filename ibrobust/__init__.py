"""ibrobust: is the robustness real, or did the gradient vanish?

The names below are the public API. They are loaded on first use, so that `import ibrobust` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.data import Dataset, load_dataset
    from ibrobust.errors import IbrobustError
    from ibrobust.estimators import conditional_knn_entropy, knn_entropy, mutual_information
    from ibrobust.evaluation.attacks.attack import Attack
    from ibrobust.evaluation.attacks.by_name import create_attack
    from ibrobust.evaluation.attacks.over_attacks import worst_case
    from ibrobust.evaluation.attacks.own_attacks import FGSM, PGD, AutoAttack, WorstCase
    from ibrobust.evaluation.attacks.result import AttackResult
    from ibrobust.evaluation.attacks.run import run_attacks
    from ibrobust.evaluation.attacks.surrogate import Transfer
    from ibrobust.evaluation.attacks.text_form import list_attacks
    from ibrobust.evaluation.audit import AuditReport, audit
    from ibrobust.evaluation.sweep import SweepResult, fgsm_sweep
    from ibrobust.evaluation.worst_case_attack import WorstCaseResult, worst_case_attack
    from ibrobust.integrations.robustbench import benchmark
    from ibrobust.models import Encoder, ImageClassifier, logits_of, normalized, resized, two_logits
    from ibrobust.registry import ModelCard, list_models, load_model, model_card, register_model, train
    from ibrobust.training.recipe import Recipe

_HOMES = {
    "ibrobust.evaluation.attacks.attack": "Attack",
    "ibrobust.evaluation.attacks.result": "AttackResult",
    "ibrobust.evaluation.audit": "AuditReport audit",
    "ibrobust.evaluation.attacks.own_attacks": "AutoAttack FGSM PGD WorstCase",
    "ibrobust.data": "Dataset load_dataset",
    "ibrobust.models": "Encoder ImageClassifier logits_of normalized resized two_logits",
    "ibrobust.errors": "IbrobustError",
    "ibrobust.registry": "ModelCard list_models load_model model_card register_model train",
    "ibrobust.training.recipe": "Recipe",
    "ibrobust.evaluation.sweep": "SweepResult fgsm_sweep",
    "ibrobust.evaluation.attacks.surrogate": "Transfer",
    "ibrobust.evaluation.worst_case_attack": "WorstCaseResult worst_case_attack",
    "ibrobust.integrations.robustbench.run_benchmark": "benchmark",
    "ibrobust.estimators.entropy": "conditional_knn_entropy knn_entropy",
    "ibrobust.evaluation.attacks.by_name": "create_attack",
    "ibrobust.estimators.mutual_information": "mutual_information",
    "ibrobust.evaluation.attacks.text_form": "list_attacks",
    "ibrobust.evaluation.attacks.run": "run_attacks",
    "ibrobust.evaluation.attacks.over_attacks": "worst_case",
}

__version__ = "0.1.0"

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "AuditReport",
    "AutoAttack",
    "Dataset",
    "Encoder",
    "IbrobustError",
    "ImageClassifier",
    "ModelCard",
    "Recipe",
    "SweepResult",
    "Transfer",
    "WorstCase",
    "WorstCaseResult",
    "audit",
    "benchmark",
    "conditional_knn_entropy",
    "create_attack",
    "fgsm_sweep",
    "knn_entropy",
    "list_attacks",
    "list_models",
    "load_dataset",
    "load_model",
    "logits_of",
    "model_card",
    "mutual_information",
    "normalized",
    "register_model",
    "resized",
    "run_attacks",
    "train",
    "two_logits",
    "worst_case",
    "worst_case_attack",
]


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
