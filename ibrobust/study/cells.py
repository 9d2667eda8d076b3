"""From a study to its cells: one recipe each, with a name that tells it from the others."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from ibrobust.errors import IbrobustError
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

    Raises:
        IbrobustError: a recipe is wrong, or two have the same name.
    """
    cells: dict[str, Cell] = {}
    for grid in study.grids:
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            name = "-".join(_part(field, value) for field, value in chosen.items())
            recipe = _recipe(study, name, chosen)
            model = f"{study.name}-{name}"
            check_name(model)
            if cells.setdefault(name, Cell(name, model, recipe)).recipe != recipe:
                raise IbrobustError(
                    f"Two cells of the study {study.name!r} are called {name!r}: write the fields they differ in into "
                    "both grids."
                )
    recipes = [cell.recipe for cell in cells.values()]
    return tuple(cell for place, cell in enumerate(cells.values()) if cell.recipe not in recipes[:place])


def find_cell(study: Study, name: str) -> Cell:
    """Return the cell of that name; raise IbrobustError where there is none."""
    for cell in expand(study):
        if cell.name == name:
            return cell
    raise IbrobustError(f"The study {study.name!r} has no cell {name!r}: ibrobust study status shows all.")


def _recipe(study: Study, name: str, chosen: dict[str, Any]) -> Recipe:
    try:
        return Recipe.parse({**study.base, **chosen})
    except IbrobustError as error:
        raise IbrobustError(f"The cell {name!r} of the study {study.name!r} is wrong. {error}") from error


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
