"""The states of a study's cells, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich.table import Table
from rich.text import Text

COLORS = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "yellow",
    "outdated": "yellow",
    "waiting": "dim",
}

# If not all cells fit, they are shown in this order of their status.
URGENCY = ("running", "failed", "interrupted", "outdated", "waiting", "done")


def study_table(
    states: Sequence[Any], *, title: str, rows: int | None = None, seconds_left: float | None = None
) -> Table:
    """Return a table with one row per cell, and the number of cells per status below.

    Args:
        states: with the attributes of `ibrobust.study.CellState`.
        title: above the table.
        rows: maximum number of rows, the most informative first; by default all.
        seconds_left: of the whole study, for the caption; None if unknown.
    """
    counts = Counter(state.status for state in states)
    caption = ", ".join(f"{counts[status]} {status}" for status in COLORS if counts[status])
    if rows is not None and len(states) > rows:
        caption += f"; {rows} of {len(states)} shown"
        urgent = sorted(range(len(states)), key=lambda index: URGENCY.index(states[index].status))
        states = [states[index] for index in sorted(urgent[:rows])]
    if seconds_left is not None:
        caption += f"; {timedelta(seconds=round(seconds_left))} left for all"
    is_live = rows is not None
    table = Table(
        title=Text(title, style="table.title"),
        caption=caption,
        title_justify="left",
        caption_justify="left",
        expand=is_live,
    )
    table.add_column("cell", overflow="fold")
    table.add_column("status")
    table.add_column("epoch", justify="right")
    table.add_column("time left", justify="right")
    # A live table has a fixed height; errors are printed in full at the end.
    table.add_column("", no_wrap=is_live, overflow="ellipsis", ratio=1 if is_live else None)
    for state in states:
        left = "" if state.seconds_left is None else str(timedelta(seconds=round(state.seconds_left)))
        epoch = f"{state.epoch}/{state.epochs}" if state.epochs else ""
        cells = (state.cell, Text(state.status, style=COLORS[state.status]), epoch, left, state.error or state.stage)
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return table
