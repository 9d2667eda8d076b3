"""Writes what a study measured into the cards of its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ibrobust.atomic import write_text
from ibrobust.home import models_dir, zoo_dir
from ibrobust.registry import add_evaluations, list_models, model_card
from ibrobust.study.cells import expand
from ibrobust.study.results import card_evaluations, is_outdated, read_results
from ibrobust.study.spec import Study
from ibrobust.study.state import cell_folder, study_states


def study_results(study: Study) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the results of each cell that has any, and whether the cell is done."""
    for cell, state in zip(expand(study), study_states(study), strict=True):
        if found := read_results(cell_folder(study, cell.name)):
            yield found, state.status == "done"


def write_cards(study: Study, *, shipped: bool = False) -> tuple[list[str], list[str]]:
    """Store the results of a study in cards; return the names of the models that were changed, and of the others.

    A card is not changed if its weights, or those of a surrogate, are not the measured ones, if the cell is not done,
    or if the model ships with a package.

    Args:
        study: the study.
        shipped: write the cards that ship with ibrobust, in a checkout, instead of those of the user's models. The
            results replace all that such a card holds.
    """
    changed, others = [], []
    stored = set(list_models())
    for content, is_done in study_results(study):
        name = content["model"]
        card = model_card(name) if name in stored else None
        is_own = (models_dir() / f"{name}.yaml").is_file()
        # What a shipped card holds is replaced, so only results on its own images may go into it.
        images = card.dataset.fingerprint if card is not None and shipped else None
        is_current = card is not None and not is_outdated(content, card.weights.sha256, images)
        if card is None or not is_done or not is_current or is_own == shipped:
            others.append(name)
            continue
        found = card_evaluations(content)
        if shipped:
            text = card.model_copy(update={"evaluations": found}).to_text()
            write_text(zoo_dir() / f"{name}.yaml", text)
        else:
            add_evaluations(name, found, weights=content["weights"])
        changed.append(name)
    return changed, others
