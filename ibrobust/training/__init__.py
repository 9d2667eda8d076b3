"""Recipes, and the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.training.recipe import Recipe
    from ibrobust.training.trainer import Progress, train_encoder

_HOMES = {
    "ibrobust.training.trainer": "Progress train_encoder",
    "ibrobust.training.recipe": "Recipe",
}

__all__ = ["Progress", "Recipe", "train_encoder"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
