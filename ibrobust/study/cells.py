"""From a study to its cells: one recipe each, with a name that tells it from the others."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from ibrobust.errors import IbrobustError
from ibrobust.objectives import list_objectives, objective_class
from ibrobust.registry.card import check_name
from ibrobust.study.spec import Study
from ibrobust.training.recipe import Recipe


@dataclass(frozen=True)
class Cell:
    """One model of a study.

    Attributes:
        name: within the study.
        model: name of its model in the registry.
        recipe: that trains it.
    """

    name: str
    model: str
    recipe: Recipe


def expand(study: Study) -> tuple[Cell, ...]:
    """Return the cells of all grids in order, a recipe that occurs twice once.

    Fields that an objective does not use have their defaults, so that a grid over cross_entropy and several betas
    trains cross-entropy once.

    Raises:
        IbrobustError: a recipe is wrong, or two have the same name.
    """
    cells: dict[str, Cell] = {}  # by the recipe's text
    names: dict[str, Recipe] = {}
    for grid in study.grids:
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            recipe, unused = _recipe(study, chosen)
            parts = [_part(field, value) for field, value in chosen.items() if field not in unused]
            name = "-".join(parts) or recipe.objective
            model = f"{study.name}-{name}"
            check_name(model)
            if names.setdefault(name, recipe) != recipe:
                raise IbrobustError(
                    f"Two cells of the study {study.name!r} are called {name!r}: write the fields they differ in into "
                    "both grids."
                )
            cells.setdefault(recipe.model_dump_json(), Cell(name, model, recipe))
    return tuple(cells.values())


def find_cell(study: Study, name: str) -> Cell:
    """Return the cell of that name; raise IbrobustError where there is none."""
    for cell in expand(study):
        if cell.name == name:
            return cell
    raise IbrobustError(f"The study {study.name!r} has no cell {name!r}: ibrobust study status shows all.")


def _recipe(study: Study, chosen: dict[str, Any]) -> tuple[Recipe, set[str]]:
    """Return the recipe of a cell, and the fields that its objective does not use, which have their defaults in it."""
    try:
        recipe = Recipe.parse({**study.base, **chosen})
        kind = objective_class(recipe.objective)
    except IbrobustError as error:
        written = ", ".join(f"{field} {value}" for field, value in chosen.items())
        raise IbrobustError(f"The cell of the study {study.name!r} with {written} is wrong. {error}") from error
    specific = {option for name in list_objectives() for option in objective_class(name).options}
    unused = {field for field in Recipe.model_fields if field in specific and field not in kind.options}
    if not kind.adds_noise:
        unused.add("noise")
    return Recipe.model_validate(recipe.model_dump(exclude=unused)), unused


def _part(field: str, value: Any) -> str:
    """Return how a field's value appears in a cell's name: knn_ib, beta0.03, noise, no_noise, seed1."""
    if isinstance(value, bool):
        return field if value else f"no_{field}"
    if field == "objective":
        return str(value)
    if isinstance(value, list):
        value = "_".join(str(part) for part in value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{field}{text}")
