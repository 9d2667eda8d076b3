"""Where the cells of a study are, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich.markup import escape
from rich.table import Table

COLORS = {"done": "green", "running": "cyan", "failed": "red", "interrupted": "yellow", "waiting": "dim"}


def study_table(states: Sequence[Any], *, title: str) -> Table:
    """Return a row a cell, and their numbers below.

    Args:
        states: with the attributes of `ibrobust.study.CellState`.
        title: above the table.
    """
    counts = Counter(state.status for state in states)
    caption = ", ".join(f"{counts[status]} {status}" for status in COLORS if counts[status])
    table = Table(title=escape(title), caption=caption, title_justify="left", caption_justify="left")
    table.add_column("cell", overflow="fold")
    table.add_column("status")
    table.add_column("epoch", justify="right")
    table.add_column("time left", justify="right")
    table.add_column("")
    for state in states:
        color = COLORS[state.status]
        left = "" if state.seconds_left is None else str(timedelta(seconds=round(state.seconds_left)))
        epoch = f"{state.epoch}/{state.epochs}" if state.epochs else ""
        status = f"[{color}]{state.status}[/{color}]"
        table.add_row(escape(state.cell), status, epoch, left, escape(state.error or state.stage))
    return table
