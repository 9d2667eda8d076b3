"""The settings of a model in words, for records, figures and reports. Needs no torch, as the documentation has none."""

from __future__ import annotations

from typing import Any

from ibrobust.training.recipe import Recipe


def field_words(field: str, value: Any) -> str:
    """Return the words for a field's value in a figure: latent dim 64, fixed power, no fixed power."""
    words = field.replace("_", " ")
    if value is None or isinstance(value, bool):
        return words if value else f"no {words}"
    if isinstance(value, tuple):
        value = " and ".join(str(part) for part in value)
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def usual_settings(objective: str) -> list[str]:
    """Return the default settings of an objective in words: a table of models need not repeat them.

    Of num_neighbors it is the default of all objectives: the k that knn_ib is best trained with is worth saying.
    """
    usual = Recipe(objective=objective)
    neighbors = "num_neighbors"
    values = {**dict(usual), neighbors: Recipe.model_fields[neighbors].default}
    return [field_words(field, value) for field, value in values.items()]
