"""The state of each cell, in a small file: the cell's process writes it, all others read it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from ibrobust.atomic import write_text
from ibrobust.errors import IbrobustError
from ibrobust.locking import is_locked, locked
from ibrobust.registry import list_models, model_card
from ibrobust.study.cells import can_be_measured, expand
from ibrobust.study.results import RESULTS_FILE, is_outdated, read_results
from ibrobust.study.spec import Study

Status = Literal["waiting", "running", "interrupted", "outdated", "done", "failed"]

OUTDATED = "The model or a surrogate was replaced after these numbers were measured: run the study again."


@dataclass(frozen=True)
class CellState:
    """The state of a cell.

    Attributes:
        cell: its name.
        status: `interrupted` if its process ended without a final state; the next run resumes it. `outdated` if it was
            done, but its model or a surrogate was replaced since; the next run measures it again.
        stage: its current step, in a few words.
        epoch: the current one, 0 before the first.
        epochs: total number.
        seconds_left: of training, None if unknown.
        error: one sentence, of a failed or outdated cell.
        process: host and process that run it, or ran it.
        asked: of a cell that is done, `asked_digest` of the study that it was measured for.
        started: UTC, ISO 8601.
        updated: UTC, ISO 8601.
    """

    cell: str
    status: Status = "waiting"
    stage: str = ""
    epoch: int = 0
    epochs: int = 0
    seconds_left: float | None = None
    error: str = ""
    process: str = ""
    asked: str = ""
    started: str = ""
    updated: str = ""


def asked_digest(study: Study) -> str:
    """Return the SHA-256 (hex) of what a study asks to be measured, and on which images."""
    # Without defaults, so that a later version with another option asks for the same.
    asked = study.model_dump_json(include={"evaluations": True, "base": {"dataset"}}, exclude_defaults=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def cell_folder(study: Study, cell: str) -> Path:
    """Return the folder of a cell's state, snapshots and results."""
    return study.folder / "cells" / cell


def write_state(study: Study, state: CellState) -> None:
    """Store a state."""
    stamped = replace(state, updated=now(), process=f"{socket.gethostname()}:{os.getpid()}")
    write_text(cell_folder(study, state.cell) / "state.json", json.dumps(asdict(stamped), indent=2) + "\n")


def stored_states(study: Study) -> list[CellState]:
    """Return the state of every cell, in the order of the cells, without a look at its results: none is outdated."""
    return [read_state(study, cell.name) for cell in expand(study)]


def study_states(study: Study) -> list[CellState]:
    """Return the state of every cell, in the order of the cells; `outdated` needs the results of those that are done.

    Raises:
        IbrobustError: a state, a result or a model's card is damaged.
    """
    stored, states = set(list_models()), []
    for cell, state in zip(expand(study), stored_states(study), strict=True):
        if state.status == "done":
            card = model_card(cell.model) if cell.model in stored else None
            results = read_results(cell_folder(study, cell.name), finished=True)
            weights = card.weights.sha256 if card is not None else None
            if can_be_measured(cell, card) and is_outdated(results, weights, None):
                state = replace(state, status="outdated", error=OUTDATED)
        states.append(state)
    return states


def read_state(study: Study, cell: str) -> CellState:
    """Return a cell's state: that of its file, unless the lock or what the study asks for now show otherwise."""
    folder = cell_folder(study, cell)
    path = folder / "state.json"
    try:
        state = CellState(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        state = CellState(cell)
    except (ValueError, TypeError, OSError) as error:
        raise IbrobustError(
            f"The state {str(path)!r} cannot be read ({error}): remove it and run the study again."
        ) from error
    if state.status == "done":
        is_so = state.asked == asked_digest(study) and (folder / RESULTS_FILE).is_file()
    else:
        is_so = state.status != "running" or is_locked(_lock(folder))
    return state if is_so else replace(state, status="interrupted", seconds_left=None)


def hold(study: Study, cell: str) -> AbstractContextManager[None]:
    """Hold the cell, so that no two processes work on it; raise IbrobustError if another one does."""
    refusal = f"The cell {cell!r} of {study.name!r} is in use by another process: wait for it."
    return locked(_lock(cell_folder(study, cell)), refusal)


def now() -> str:
    """Return the time, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _lock(folder: Path) -> Path:
    return folder / "lock"
