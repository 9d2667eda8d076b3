"""List, train, load and register models: a YAML card and safetensors weights each."""

from ibrobust.registry.card import ModelCard
from ibrobust.registry.registry import (
    add_evaluation,
    copy_model,
    export_model,
    list_models,
    load_model,
    model_card,
    register_model,
    train,
    update_metrics,
)

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
