"""Estimators: from points (N, D), with or without labels (N,), to entropies and information in nats."""

from ibrobust.estimators.entropy import conditional_knn_entropy, knn_entropy
from ibrobust.estimators.mutual_information import MutualInformation, mutual_information
from ibrobust.estimators.noise_floor import EntropyBias, entropy_bias

__all__ = [
    "EntropyBias",
    "MutualInformation",
    "conditional_knn_entropy",
    "entropy_bias",
    "knn_entropy",
    "mutual_information",
]
