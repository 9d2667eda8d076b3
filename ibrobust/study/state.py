"""Where each cell is: a small file that the cell's process writes and everyone else reads."""

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
    """What a cell is doing.

    Attributes:
        cell: its name.
        status: `interrupted` where its process ended without a word; the next run goes on with it.
        stage: what it is doing, in a few words.
        epoch: under way, 0 before the first.
        epochs: in all.
        seconds_left: of training, None where that is not known.
        error: one sentence, of a failed cell.
        process: where it runs, or ran: host and process.
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
    """Return a cell's state: what its file says, unless the records or the lock know better."""
    folder = cell_folder(study, cell)
    path = folder / "state.json"
    try:
        state = CellState(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        state = CellState(cell)
    except (ValueError, TypeError, OSError) as error:
        raise IbrobustError(f"The state {str(path)!r} cannot be read ({error}): remove it and run again.") from error
    if (folder / "records.csv").is_file():
        return replace(state, status="done", stage="", seconds_left=None, error="")
    # Whoever removes a cell's records wants them made again.
    if state.status == "done" or (state.status == "running" and not is_locked(_lock(folder))):
        return replace(state, status="interrupted", seconds_left=None)
    return state


def hold(study: Study, cell: str) -> AbstractContextManager[None]:
    """Hold the cell, so that no two processes work on it; IbrobustError says that another one does."""
    refusal = f"The cell {cell!r} of {study.name!r} is being worked on by another process: wait for it."
    return locked(_lock(cell_folder(study, cell)), refusal)


def now() -> str:
    """Return the time, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _lock(folder: Path) -> Path:
    return folder / "lock"
