"""The facts about each model in a report, besides its numbers."""

from __future__ import annotations

from typing import Any

from ibrobust.home import runs_dir
from ibrobust.registry import ModelCard, list_models, model_card
from ibrobust.registry.card import ArchitectureRecord
from ibrobust.study.cells import expand, is_its_card
from ibrobust.study.results import asked_for, read_results
from ibrobust.study.setting_words import usual_settings
from ibrobust.study.spec import Study
from ibrobust.study.state import cell_folder, study_states
from ibrobust.training.build import unused_if_known
from ibrobust.training.metrics_log import read_records, terms_of
from ibrobust.training.recipe import Recipe


def report_cells(study: Study) -> list[dict[str, Any]]:
    """Return every cell's name, status, error, and the facts about its model; see `model_facts`."""
    there = set(list_models())
    cells = []
    for cell, state in zip(expand(study), study_states(study), strict=True):
        is_done = state.status == "done"
        results = read_results(cell_folder(study, cell.name), finished=is_done)
        card = model_card(cell.model) if cell.model in there else None
        is_known = card is not None and is_its_card(cell, card) and state.status != "outdated"
        facts = model_facts(card) if card is not None and is_known else {}
        if cell.recipe is not None:
            facts |= {"recipe": _settings(cell.recipe), "usual": usual_settings(cell.recipe.objective)}
        if results:
            facts["dataset"] = results["dataset"]
            facts["examples"] = asked_for(results).get("examples") if is_done else None
        cells.append({**facts, "name": cell.name, "status": state.status, "error": state.error})
    return cells


def model_facts(card: ModelCard) -> dict[str, Any]:
    """Return a model's name, data set, recipe, the versions and hardware of its training, and its training curves.

    `usual` has the default settings of its objective in words.

    The curves, `training`, have the terms of each epoch by name, if the folder of the run is on this machine.
    """
    training = card.training
    epochs = [terms_of(record) for record in read_records(runs_dir() / card.name / "metrics.jsonl")]
    # The folder may be that of another training of this name, which has not replaced the model.
    is_of_it = training is not None and epochs[-1:] == [training.final_terms]
    return {
        "name": card.name,
        "status": "done",
        "dataset": card.dataset.name,
        "recipe": _settings(card.recipe, card.architecture),
        "usual": usual_settings(card.recipe.objective) if card.recipe is not None else (),
        "versions": dict(training.versions) if training else {},
        "hardware": training.hardware if training else "",
        "seconds": training.seconds if training else None,
        "training": epochs if is_of_it else [],
    }


def _settings(recipe: Recipe | None, architecture: ArchitectureRecord | None = None) -> dict[str, Any]:
    """Return what a model is built with, and the settings of its recipe that had an effect."""
    built = {"factory": architecture.factory} if architecture is not None else {}
    if recipe is None:
        return built
    of_encoder = {"width", "latent_dim", "fixed_power"} if built else set()
    unused = unused_if_known(recipe.objective)
    return {**built, **recipe.model_dump(mode="json", exclude=unused | of_encoder)}
