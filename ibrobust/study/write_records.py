"""A study's records: one tidy CSV with one number per row, for pandas."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ibrobust.atomic import write_text
from ibrobust.integrations.references import is_reference
from ibrobust.objectives import objective_class
from ibrobust.records import COLUMNS
from ibrobust.registry import model_card
from ibrobust.study.cells import Cell, expand, field_words
from ibrobust.study.results import card_rows, read_results, rows_of
from ibrobust.study.spec import Study
from ibrobust.training.build import unused_fields
from ibrobust.training.recipe import Recipe


def cell_columns(study: Study, cell: Cell) -> dict[str, Any]:
    """Return the columns that are equal in all rows of a cell; None means not applicable, an empty field."""
    common = {"study": study.name, "cell": cell.name, "model": cell.model}
    if cell.recipe is not None:
        columns = {**recipe_columns(cell.recipe), "setting": cell.setting}
    else:
        columns = model_columns(study.models)[cell.model]
    if study.models and study.grids:
        # A trained cell may equal a stored model in all columns.
        columns["setting"] = ", ".join(dict.fromkeys(filter(None, (columns["setting"], _among_all(study, cell.model)))))
    return {**common, **columns}


def _among_all(study: Study, model: str) -> str:
    """Return what distinguishes a cell's model from all others of the study, trained and stored."""
    recipes: dict[str, Recipe | None] = {}
    for cell in expand(study):
        recipes[cell.model] = cell.recipe
        if cell.recipe is None and not is_reference(cell.model):
            recipes[cell.model] = model_card(cell.model).recipe
    # A model without a recipe has its name from elsewhere.
    return settings_of(recipes)[model] if recipes[model] is not None else ""


def rows_of_models(title: str, results: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of some models' results (by name or reference), as a study of that title has them."""
    columns = model_columns(results)
    for model, content in results.items():
        card = None if is_reference(model) else model_card(model)
        has_own_images = card is not None and content.get("dataset_fingerprint") in (None, card.dataset.fingerprint)
        for row in (*(card_rows(card) if card is not None and has_own_images else ()), *rows_of(content)):
            yield {"study": title, "cell": model, "model": model, **columns[model], **row}


def model_columns(models: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the columns of each model's training, with what distinguishes it from the other models."""
    cards = {model: None if is_reference(model) else model_card(model) for model in models}
    recipes = {model: card.recipe if card is not None else None for model, card in cards.items()}
    images = {model: card.dataset for model, card in cards.items() if card is not None}
    versions = {(data.name, data.fingerprint) for data in images.values()}
    several = {name for name, count in Counter(name for name, _ in versions).items() if count > 1}
    named = {
        model: f"{data.name} {data.fingerprint[:8]}" if data.name in several else data.name
        for model, data in images.items()
    }
    settings = settings_of(recipes, named)
    return {model: {**recipe_columns(recipe), "setting": settings[model]} for model, recipe in recipes.items()}


def recipe_columns(recipe: Recipe | None) -> dict[str, Any]:
    """Return the columns of a recipe; None is that of a model from elsewhere, of which nothing is known."""
    if recipe is None:
        return {"objective": "unknown"}
    kind = objective_class(recipe.objective)
    return {
        "objective": recipe.objective,
        "beta": recipe.beta if "beta" in kind.options else None,
        "noise": recipe.noise if kind.adds_noise else None,
        "dropout": recipe.dropout,
        "dropconnect": recipe.dropconnect,
        "width": recipe.width,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
    }


def settings_of(recipes: Mapping[str, Recipe | None], images: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return, for each model, what distinguishes it from others whose columns are equal, except for the seed.

    Figures average over the seed: models with other seeds must be equal in all else to be one line. Where two models of
    one objective have equal columns, all models of that objective get the fields that these differ in. A model without
    a recipe is distinguished by its name.

    Args:
        recipes: by model.
        images: name of the training images, by model.
    """
    images = images or {}
    settings = {name: "" if recipe is not None else name for name, recipe in recipes.items()}
    known = {name: recipe for name, recipe in recipes.items() if recipe is not None}
    for objective in {recipe.objective for recipe in known.values()}:
        alike = {name: recipe for name, recipe in known.items() if recipe.objective == objective}
        ignored = {"dataset", "decoders", "seed", *unused_fields(objective_class(objective))}
        compared = {
            name: {"images": images.get(name, ""), **recipe.model_dump(exclude=ignored)}
            for name, recipe in alike.items()
        }
        telling = {
            field: None
            for one, other in itertools.combinations(alike, 2)
            if {**recipe_columns(alike[one]), "seed": None} == {**recipe_columns(alike[other]), "seed": None}
            for field in compared[one]
            if compared[one][field] != compared[other][field]
        }
        for name, fields in compared.items():
            settings[name] = ", ".join(field_words(field, fields[field]) for field in telling)
    return settings


def write_records(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, each a mapping from some of the columns to values, as one whole file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    write_text(path, text.getvalue())


def gather_records(study: Study) -> Path:
    """Write the records of all finished cells into the study's own file; return its path."""
    rows: list[dict[str, Any]] = []
    for path in finished_records(study):
        with path.open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        rows += _completed(found, path.parent)
    target = study.folder / "records.csv"
    write_records(target, rows)
    return target


def _completed(rows: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return rows with the verdict, norm and upper bound that today's rules give the cell's results.

    The rows may have been written before records had these, or before the rules of audits changed.
    """
    results = read_results(folder)
    known = {_place(row): row for row in rows_of(results)} if results else {}
    columns = ("verdict", "norm", "upper_bound")
    return [
        {**row, **{key: value for key, value in known.get(_place(row), {}).items() if key in columns}} for row in rows
    ]


def _place(row: Mapping[str, Any]) -> tuple[str, ...]:
    columns = ("decoder", "attack", "epsilon", "quantity", "num_images")
    values = (row.get(column) for column in columns)
    return tuple("" if value is None else str(value) for value in values)


def finished_records(study: Study) -> Sequence[Path]:
    """Return the record files of the finished cells, in the order of the cells."""
    paths = [cell_folder(study, cell.name) / "records.csv" for cell in expand(study)]
    return [path for path in paths if path.is_file()]


def cell_folder(study: Study, cell: str) -> Path:
    """Return the folder of a cell's state, snapshots and records."""
    return study.folder / "cells" / cell
