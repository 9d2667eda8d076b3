"""The facts about each cell in a report, besides its numbers."""

from __future__ import annotations

from typing import Any

from ibrobust.registry import list_models, model_card
from ibrobust.study.cells import expand
from ibrobust.study.spec import Study
from ibrobust.study.state import read_state


def report_cells(study: Study) -> list[dict[str, Any]]:
    """Return every cell's name, status, error, recipe, and the versions and hardware of its training."""
    there = set(list_models())
    cells = []
    for cell in expand(study):
        state = read_state(study, cell.name)
        card = model_card(cell.model) if cell.model in there else None
        recipe = cell.recipe if cell.recipe is not None or card is None else card.recipe
        training = card.training if card is not None else None
        cells.append(
            {
                "name": cell.name,
                "model": cell.model,
                "status": state.status,
                "error": state.error,
                "recipe": recipe.model_dump(mode="json") if recipe is not None else {},
                "versions": dict(training.versions) if training else {},
                "hardware": training.hardware if training else "",
                "seconds": training.seconds if training else None,
            }
        )
    return cells
