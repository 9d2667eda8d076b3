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
    from ibrobust.evaluation.attacks.by_name import create_attack, list_attacks
    from ibrobust.evaluation.attacks.over_attacks import worst_case
    from ibrobust.evaluation.attacks.own_attacks import FGSM, PGD, AutoAttack, WorstCase
    from ibrobust.evaluation.attacks.result import AttackResult
    from ibrobust.evaluation.attacks.run import run_attacks
    from ibrobust.evaluation.attacks.surrogate import Transfer
    from ibrobust.evaluation.audit import AuditReport, audit
    from ibrobust.evaluation.sweep import SweepResult, fgsm_sweep
    from ibrobust.evaluation.worst_case_attack import WorstCaseResult, worst_case_attack
    from ibrobust.integrations.robustbench import benchmark
    from ibrobust.models import Encoder, ImageClassifier, logits_of, normalized, resized, two_logits
    from ibrobust.registry import ModelCard, list_models, load_model, model_card, register_model, train
    from ibrobust.training.recipe import Recipe

_HOMES = {
    "Attack": "ibrobust.evaluation.attacks.attack",
    "AttackResult": "ibrobust.evaluation.attacks.result",
    "AuditReport": "ibrobust.evaluation.audit",
    "AutoAttack": "ibrobust.evaluation.attacks.own_attacks",
    "Dataset": "ibrobust.data",
    "Encoder": "ibrobust.models",
    "FGSM": "ibrobust.evaluation.attacks.own_attacks",
    "IbrobustError": "ibrobust.errors",
    "ImageClassifier": "ibrobust.models",
    "ModelCard": "ibrobust.registry",
    "PGD": "ibrobust.evaluation.attacks.own_attacks",
    "Recipe": "ibrobust.training.recipe",
    "SweepResult": "ibrobust.evaluation.sweep",
    "Transfer": "ibrobust.evaluation.attacks.surrogate",
    "WorstCase": "ibrobust.evaluation.attacks.own_attacks",
    "WorstCaseResult": "ibrobust.evaluation.worst_case_attack",
    "audit": "ibrobust.evaluation.audit",
    "benchmark": "ibrobust.integrations.robustbench.run_benchmark",
    "conditional_knn_entropy": "ibrobust.estimators.entropy",
    "create_attack": "ibrobust.evaluation.attacks.by_name",
    "fgsm_sweep": "ibrobust.evaluation.sweep",
    "knn_entropy": "ibrobust.estimators.entropy",
    "list_attacks": "ibrobust.evaluation.attacks.by_name",
    "list_models": "ibrobust.registry",
    "load_dataset": "ibrobust.data",
    "load_model": "ibrobust.registry",
    "logits_of": "ibrobust.models",
    "model_card": "ibrobust.registry",
    "mutual_information": "ibrobust.estimators.mutual_information",
    "normalized": "ibrobust.models",
    "register_model": "ibrobust.registry",
    "resized": "ibrobust.models",
    "run_attacks": "ibrobust.evaluation.attacks.run",
    "train": "ibrobust.registry",
    "two_logits": "ibrobust.models",
    "worst_case": "ibrobust.evaluation.attacks.over_attacks",
    "worst_case_attack": "ibrobust.evaluation.worst_case_attack",
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
