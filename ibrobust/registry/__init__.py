"""List, train, load and register models: a YAML card and safetensors weights each."""

from ibrobust.registry.card import ModelCard
from ibrobust.registry.registry import (
    add_evaluation,
    copy_model,
    export_model,
    list_models,
    load_model,
    model_card,
    update_metrics,
)
from ibrobust.registry.storing import register_model
from ibrobust.registry.training import train

__all__ = [
    "ModelCard",
    "add_evaluation",
    "copy_model",
    "export_model",
    "list_models",
    "load_model",
    "model_card",
    "register_model",
    "train",
    "update_metrics",
]
