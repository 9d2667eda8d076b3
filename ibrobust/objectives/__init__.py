"""Latents (B, D) and labels (B,) to a loss in nats with its named terms."""

from ibrobust.objectives.base import Loss, Objective
from ibrobust.objectives.bias import EntropyBias, entropy_bias
from ibrobust.objectives.entropy import conditional_knn_entropy, knn_entropy
from ibrobust.objectives.information import MutualInformation, mutual_information
from ibrobust.objectives.registry import build_objective, list_objectives, objective_class, register_objective

__all__ = [
    "EntropyBias",
    "Loss",
    "MutualInformation",
    "Objective",
    "build_objective",
    "conditional_knn_entropy",
    "entropy_bias",
    "knn_entropy",
    "list_objectives",
    "mutual_information",
    "objective_class",
    "register_objective",
]
