"""List, train, load and register models: a YAML card and safetensors weights each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.registry.card import ModelCard
    from ibrobust.registry.catalog import list_models, shipped_models
    from ibrobust.registry.export import export_model
    from ibrobust.registry.load import add_evaluation, add_evaluations, copy_model, load_model, update_metrics
    from ibrobust.registry.register import register_model
    from ibrobust.registry.store import model_card
    from ibrobust.registry.train_model import train

_HOMES = {
    "ibrobust.registry.card": "ModelCard",
    "ibrobust.registry.load": "add_evaluation add_evaluations copy_model load_model update_metrics",
    "ibrobust.registry.export": "export_model",
    "ibrobust.registry.catalog": "list_models shipped_models",
    "ibrobust.registry.store": "model_card",
    "ibrobust.registry.register": "register_model",
    "ibrobust.registry.train_model": "train",
}

__all__ = [
    "ModelCard",
    "add_evaluation",
    "add_evaluations",
    "copy_model",
    "export_model",
    "list_models",
    "load_model",
    "model_card",
    "register_model",
    "shipped_models",
    "train",
    "update_metrics",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
