"""The cells of a study: one recipe or one stored model each, with a unique name."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from ibrobust.data import Dataset
from ibrobust.errors import IbrobustError
from ibrobust.integrations.references import is_reference
from ibrobust.objectives import objective_class
from ibrobust.registry import ModelCard, model_card
from ibrobust.registry.card import check_name
from ibrobust.registry.catalog import in_its_channels
from ibrobust.study.setting_words import field_words
from ibrobust.study.spec import Study
from ibrobust.training.build import unused_fields, without_effect
from ibrobust.training.recipe import Recipe

# The recipe's fields that records have columns for.
RECORDED = frozenset({"objective", "beta", "noise", "dropout", "dropconnect", "width", "seed", "epochs"})


@dataclass(frozen=True)
class Cell:
    """One model of a study.

    Attributes:
        name: within the study.
        model: name of its model in the registry, or a reference.
        recipe: its training by the study; None for a model that the study names, which is not trained.
        setting: in words, what distinguishes it from other cells of its objective, except for fields with a column in
            the records.
    """

    name: str
    model: str
    recipe: Recipe | None
    setting: str

    @property
    def seed(self) -> int:
        """Seed of everything random in the cell's evaluations."""
        return self.recipe.seed if self.recipe is not None else 0


def expand(study: Study) -> tuple[Cell, ...]:
    """Return the cells of all grids in order, then those of the models; a recipe that occurs twice gives one cell.

    A cell is named after its objective and the fields that distinguish it from other cells of that objective. Fields
    that an objective does not use have their defaults, so that a grid over cross_entropy and several betas trains
    cross-entropy once.

    Raises:
        IbrobustError: a recipe is invalid, or two have the same name.
    """
    axes = dict.fromkeys(field for grid in study.grids for field in grid)
    products = [
        dict(zip(grid, values, strict=True)) for grid in study.grids for values in itertools.product(*grid.values())
    ]
    recipes = {recipe.model_dump_json(): recipe for recipe in (_recipe(study, chosen) for chosen in products)}
    cells: dict[str, Cell] = {}
    for recipe in recipes.values():
        alike = [other for other in recipes.values() if other.objective == recipe.objective]
        telling = [field for field in axes if any(getattr(other, field) != getattr(recipe, field) for other in alike)]
        name = "-".join([recipe.objective, *(_part(field, getattr(recipe, field)) for field in telling)])
        check_name(f"{study.name}-{name}")
        if name in cells:
            raise IbrobustError(
                f"Two cells of the study {study.name!r} would both be called {name!r}, because a file name cannot show "
                "their "
                "difference: change one of the values."
            )
        setting = ", ".join(field_words(field, getattr(recipe, field)) for field in telling if field not in RECORDED)
        cells[name] = Cell(name, f"{study.name}-{name}", recipe, setting)
    for model in study.models:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", model)
        check_name(name)
        if name in cells:
            raise IbrobustError(f"Two cells of the study {study.name!r} would both be called {name!r}: leave one out.")
        cells[name] = Cell(name, model, None, "")
    return tuple(cells.values())


def dataset_of(study: Study, cell: Cell) -> str:
    """Return the name or path of a cell's data set: the study's, or else what its stored model's is read from."""
    chosen = cell.recipe.dataset if cell.recipe is not None else study.base.get("dataset")
    if chosen is not None:
        return str(chosen)
    if is_reference(cell.model):
        raise IbrobustError(
            f"The study {study.name!r} has no data set for {cell.model!r}: give base.dataset, or `dataset`."
        )
    return model_card(cell.model).images


def images_of(study: Study, cell: Cell, card: ModelCard | None, data: Dataset) -> Dataset:
    """Return the images of a cell's data set as its model takes them.

    Raises:
        IbrobustError: they are not those that the model was trained on, and the study does not name others for it.
    """
    data = data if card is None else in_its_channels(card, data)
    names_others = cell.recipe is None and study.base.get("dataset") is not None
    if card is not None and not names_others and data.fingerprint != card.dataset.fingerprint:
        remedy = "give others as `dataset`" if cell.recipe is None else "remove the model"
        raise IbrobustError(
            f"The images of {data.source!r} are not those that {card.name!r} was trained on: restore them, or {remedy}."
        )
    return data


def is_its_card(cell: Cell, card: ModelCard) -> bool:
    """Return whether a card may be of a cell's model: for a cell with a recipe, only that of a training by it."""
    # A module that was registered with a recipe need not be what its training gives.
    return cell.recipe is None or (
        card.recipe == cell.recipe and card.architecture is None and card.training is not None
    )


def can_be_measured(cell: Cell, card: ModelCard | None) -> bool:
    """Return whether a cell can be measured without training, given the card of its model; None if none is stored."""
    return cell.recipe is None if card is None else is_its_card(cell, card)


def find_cell(study: Study, name: str) -> Cell:
    """Return the cell of that name; raise IbrobustError if it does not exist."""
    for cell in expand(study):
        if cell.name == name:
            return cell
    raise IbrobustError(f"The study {study.name!r} has no cell {name!r}: ibrobust study status shows all.")


def _recipe(study: Study, chosen: dict[str, Any]) -> Recipe:
    """Return the recipe of a cell, with the defaults of the fields that have no effect."""
    try:
        recipe = Recipe.parse({**study.base, **chosen})
        kind = objective_class(recipe.objective)
    except IbrobustError as error:
        written = ", ".join(f"{field} {value}" for field, value in chosen.items())
        raise IbrobustError(f"The cell of the study {study.name!r} with {written} is invalid. {error}") from error
    unused = unused_fields(kind) | without_effect(recipe).keys()
    plain = Recipe.model_validate(recipe.model_dump(exclude=unused))
    # Also without the decoder resfc, the information plane has such a network: its units are not refused.
    return plain.given_only(recipe.model_fields_set - unused - {"resfc_units"})


def _part(field: str, value: Any) -> str:
    """Return a field's value as in a cell's name: beta0.03, noise, no_noise, seed1."""
    if isinstance(value, bool):
        return field if value else f"no_{field}"
    if isinstance(value, tuple):
        value = "_".join(str(part) for part in value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{field}{text}")
