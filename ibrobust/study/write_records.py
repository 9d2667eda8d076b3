"""A study's records: one tidy CSV with one number per row, for pandas."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ibrobust.atomic import write_text
from ibrobust.integrations.references import is_reference
from ibrobust.records import COLUMNS, UNKNOWN, is_thorough
from ibrobust.registry import ModelCard, model_card
from ibrobust.registry.card import ArchitectureRecord
from ibrobust.study.cells import expand
from ibrobust.study.results import asked_for, card_rows, read_results, rows_of, surrogate_of
from ibrobust.study.setting_words import field_words
from ibrobust.study.spec import Study
from ibrobust.study.state import cell_folder, study_states
from ibrobust.training.build import unused_if_known
from ibrobust.training.recipe import STORED, Recipe


def cell_columns(study: Study, cards: Mapping[str, ModelCard | None]) -> dict[str, dict[str, Any]]:
    """Return the columns that are equal in all rows of a cell, by its name; None means not applicable, an empty field.

    Args:
        study: of the cells.
        cards: of the measured cells' models, by the cell's name; None for a reference.
    """
    cells = {cell.name: cell for cell in expand(study) if cell.name in cards}
    of_models = model_columns({cell.model: cards[name] for name, cell in cells.items()})
    columns = {}
    for name, cell in cells.items():
        known = of_models[cell.model]
        if cell.recipe is not None:
            # A trained cell may equal a stored model in all columns.
            told = (cell.setting, known["setting"] if study.models else "")
            known = {**recipe_columns(cell.recipe), "setting": ", ".join(dict.fromkeys(filter(None, told)))}
        columns[name] = {"study": study.name, "cell": name, "model": cell.model, **known}
    return columns


def rows_of_models(title: str, results: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of some models' results (by name or reference), as a study of that title has them."""
    cards = {model: None if is_reference(model) else model_card(model) for model in results}
    columns = model_columns(cards)
    for model, content in results.items():
        for row in _rows(cards[model], content.get("dataset_fingerprint"), content):
            yield {"study": title, "cell": model, "model": model, **columns[model], **row}


def _rows(card: ModelCard | None, images: str | None, content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a card, if the images (their fingerprint) are its own, and of the results on these images."""
    if card is not None and images in (None, card.dataset.fingerprint):
        yield from card_rows(card)
    yield from rows_of(content)


def model_columns(cards: Mapping[str, ModelCard | None]) -> dict[str, dict[str, Any]]:
    """Return the columns of each model's training, with what distinguishes it from the other models."""
    recipes = {model: card.recipe if card is not None else None for model, card in cards.items()}
    images = {model: card.dataset for model, card in cards.items() if card is not None}
    versions = {(data.name, data.fingerprint) for data in images.values()}
    several = {name for name, count in Counter(name for name, _ in versions).items() if count > 1}
    further = {
        model: {
            "images": f"{card.dataset.name} {card.dataset.fingerprint[:8]}"
            if card.dataset.name in several
            else card.dataset.name,
            "architecture": _architecture_words(card.architecture),
        }
        for model, card in cards.items()
        if card is not None
    }
    settings = settings_of(recipes, further)
    return {model: {**recipe_columns(recipe), "setting": settings[model]} for model, recipe in recipes.items()}


def _architecture_words(architecture: ArchitectureRecord | None) -> str:
    """Return what builds a registered model, with its arguments; the encoder of ibrobust is a ResNet18."""
    if architecture is None:
        return "ResNet18"
    return " ".join([architecture.factory, *(f"{key}={value}" for key, value in architecture.arguments.items())])


def recipe_columns(recipe: Recipe | None) -> dict[str, Any]:
    """Return the columns of a recipe; None is that of a model from elsewhere, of which nothing is known."""
    if recipe is None:
        return {"objective": UNKNOWN}
    unused = unused_if_known(recipe.objective)
    return {
        "objective": recipe.objective,
        "beta": None if "beta" in unused else recipe.beta,
        "noise": None if "noise" in unused else recipe.noise,
        "dropout": recipe.dropout,
        "dropconnect": recipe.dropconnect,
        "width": recipe.width,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
    }


def settings_of(
    recipes: Mapping[str, Recipe | None], further: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, str]:
    """Return, for each model, what distinguishes it from others whose columns are equal, except for the seed.

    Figures average over the seed: models with other seeds must be equal in all else to be one line. Where two models of
    one objective have equal columns, all models of that objective get the fields that these differ in. A model without
    a recipe is distinguished by its name.

    Args:
        recipes: by model.
        further: what else may distinguish a model, such as its ``images``, by model.
    """
    further = further or {}
    settings = {name: "" if recipe is not None else name for name, recipe in recipes.items()}
    known = {name: recipe for name, recipe in recipes.items() if recipe is not None}
    for objective in {recipe.objective for recipe in known.values()}:
        alike = {name: recipe for name, recipe in known.items() if recipe.objective == objective}
        ignored = {"dataset", "decoders", "seed", *unused_if_known(objective)}
        compared = {
            name: {**further.get(name, {}), **recipe.model_dump(exclude=ignored)} for name, recipe in alike.items()
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


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, each a mapping from some of the columns to values, as one whole file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    write_text(path, text.getvalue())


def gather_records(study: Study) -> Path:
    """Write the records of all finished cells into the study's file; return its path.

    They are made from the cells' results, by today's rules and with what the study asks for now. Outdated cells, see
    `CellState`, have none.
    """
    done = [state.cell for state in study_states(study) if state.status == "done"]
    results = {name: read_results(cell_folder(study, name), finished=True) for name in done}
    cards = {name: _measured_card(content) for name, content in results.items()}
    columns = cell_columns(study, cards)
    rows = [
        {**columns[name], **row}
        for name, content in results.items()
        for row in _rows(cards[name], content["dataset_fingerprint"], asked_for(content))
    ]
    target = study.folder / "records.csv"
    write_records(target, without_unlike_worst_cases(rows))
    return target


def without_unlike_worst_cases(rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a study without the worst cases that would be compared with those over more attacks.

    If a thorough attack ran in a norm, a worst case is over one at its epsilon. Otherwise it is over every attack that
    another cell or decoder had in this norm at its epsilon or a smaller one. A model is no surrogate of itself, so it
    needs no transfer from itself.
    """
    of_norm: dict[str, set[tuple[str, float]]] = defaultdict(set)
    of_decoder: dict[tuple[str, ...], set[tuple[str, float]]] = defaultdict(set)
    for row in rows:
        if row["quantity"] == "robust_accuracy":
            attacked = row["attack"], row["epsilon"]
            of_norm[row["norm"]].add(attacked)
            of_decoder[row["cell"], row["decoder"], row["norm"]].add(attacked)
    for row in rows:
        if row["quantity"] == "worst_case_accuracy":
            every, own = of_norm[row["norm"]], of_decoder[row["cell"], row["decoder"], row["norm"]]
            if any(is_thorough(attack) for attack, _ in every):
                is_alike = any(is_thorough(attack) for attack, epsilon in own if epsilon == row["epsilon"])
            else:
                others = {each for each in every if each[1] <= row["epsilon"] and surrogate_of(each[0]) != row["model"]}
                is_alike = others <= own
            if not is_alike:
                continue
        yield row


def _measured_card(content: Mapping[str, Any]) -> ModelCard | None:
    """Return the card of the model that was measured, which may be replaced or removed by now."""
    return None if content["card"] is None else ModelCard.model_validate(content["card"], context=STORED)
