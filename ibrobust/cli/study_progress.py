"""A live table on stderr while a study runs, drawn from the state files of its cells."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from ibrobust.cli.flags import in_flags
from ibrobust.errors import IbrobustError
from ibrobust.reporting.progress_table import study_table
from ibrobust.study.state import stored_states
from ibrobust.study.time_left import seconds_left

if TYPE_CHECKING:
    from ibrobust.study import CellState, Study

Watch = Callable[["Study", Console, threading.Event], None]

SECONDS_BETWEEN_LOOKS = 1.0

# Title, header, borders and caption of the table, and the cursor's line.
LINES_AROUND_ROWS = 7


@contextmanager
def watching(study: Study, console: Console) -> Iterator[None]:
    """Show the state of the cells while the body runs: a table on a terminal, else one line per change of status."""
    stop = threading.Event()
    watch = _watch_live if console.is_terminal else _watch_lines
    thread = threading.Thread(target=_quietly, args=(watch, study, console, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _quietly(watch: Watch, study: Study, console: Console, stop: threading.Event) -> None:
    # The code that runs the study reports its errors.
    with suppress(IbrobustError):
        watch(study, console, stop)


def _watch_live(study: Study, console: Console, stop: threading.Event) -> None:
    def table() -> object:
        rows = max(1, console.height - LINES_AROUND_ROWS)
        states = stored_states(study)
        return study_table(states, title=study.title or study.name, rows=rows, seconds_left=seconds_left(states))

    with Live(table(), console=console, transient=True, auto_refresh=False) as live:  # type: ignore[arg-type]
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            live.update(table(), refresh=True)  # type: ignore[arg-type]


def _watch_lines(study: Study, console: Console, stop: threading.Event) -> None:
    before: dict[str, tuple[str, str]] = {}
    ending = False
    while True:
        for state in stored_states(study):
            seen = (state.status, state.stage.partition(",")[0])
            if before.get(state.cell, ("waiting", "")) != seen:
                before[state.cell] = seen
                console.print(_line(state), markup=False, highlight=False, soft_wrap=True)
        if ending:
            return
        ending = stop.wait(SECONDS_BETWEEN_LOOKS)


def _line(state: CellState) -> str:
    detail = in_flags(state.error or state.stage)
    return f"{state.cell}: {state.status}{f' ({detail})' if detail else ''}"
