"""Recipes and the loop that follows them."""

from ibrobust.training.recipe import Recipe
from ibrobust.training.trainer import Progress, train_encoder

__all__ = ["Progress", "Recipe", "train_encoder"]
