"""The state of each cell, in a small file: the cell's process writes it, all others read it."""

from __future__ import annotations

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
from ibrobust.study.cells import expand
from ibrobust.study.spec import Study
from ibrobust.study.write_records import cell_folder

Status = Literal["waiting", "running", "interrupted", "done", "failed"]


@dataclass(frozen=True)
class CellState:
    """The state of a cell.

    Attributes:
        cell: its name.
        status: `interrupted` if its process ended without a final state; the next run resumes it.
        stage: its current step, in a few words.
        epoch: the current one, 0 before the first.
        epochs: total number.
        seconds_left: of training, None if unknown.
        error: one sentence, of a failed cell.
        process: host and process that run it, or ran it.
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
    started: str = ""
    updated: str = ""


def write_state(study: Study, state: CellState) -> None:
    """Store a state."""
    stamped = replace(state, updated=now(), process=f"{socket.gethostname()}:{os.getpid()}")
    write_text(cell_folder(study, state.cell) / "state.json", json.dumps(asdict(stamped), indent=2) + "\n")


def study_states(study: Study) -> list[CellState]:
    """Return the state of every cell, in the order of the cells."""
    return [read_state(study, cell.name) for cell in expand(study)]


def read_state(study: Study, cell: str) -> CellState:
    """Return a cell's state: that of its file, unless the records or the lock show otherwise."""
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
    if (folder / "records.csv").is_file():
        return replace(state, status="done", stage="", seconds_left=None, error="")
    # A cell whose records were removed is run again.
    if state.status == "done" or (state.status == "running" and not is_locked(_lock(folder))):
        return replace(state, status="interrupted", seconds_left=None)
    return state


def hold(study: Study, cell: str) -> AbstractContextManager[None]:
    """Hold the cell, so that no two processes work on it; raise IbrobustError if another one does."""
    refusal = f"The cell {cell!r} of {study.name!r} is in use by another process: wait for it."
    return locked(_lock(cell_folder(study, cell)), refusal)


def now() -> str:
    """Return the time, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _lock(folder: Path) -> Path:
    return folder / "lock"
