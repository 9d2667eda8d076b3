"""Tables on the terminal or in a pipe, with no number ever cut off; the command that was given."""

from __future__ import annotations

import os
import shlex
import sys
from copy import copy
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ibrobust import __version__
from ibrobust.atomic import STDOUT

# Wider than any table; what a table would need if nothing held it back.
UNBOUNDED = 10_000


def print_table(table: Table, *, stderr: bool = False) -> None:
    """Print a table on stdout or stderr, in the width of the terminal or in the width it needs if that is larger.

    rich would shorten the cells of a table that is too wide, numbers included. A terminal that is too narrow breaks the
    lines instead. Text is broken into lines to fit a terminal, but not in a pipe or a file, where programs read it and
    rich would take 80 columns.
    """
    plain = partial(
        Console, markup=False, emoji=False, stderr=stderr
    )  # names of data sets and files may have brackets and colons
    console = plain()
    narrowest = copy(table)
    # rich does not break a word to make a column narrow, although such a column breaks it to fit.
    narrowest.columns = [
        replace(column, max_width=column.min_width) if column.overflow == "fold" else column for column in table.columns
    ]
    unbounded = console.options.update(max_width=UNBOUNDED)
    needed = console.measure(narrowest, options=unbounded).minimum
    if has_no_width(console):
        needed = console.measure(table, options=unbounded).maximum
    if needed > console.width:
        console = plain(width=needed)
    console.print(table)


def has_no_width(console: Console) -> bool:
    """Return whether lines may be of any length: in a pipe or a file, unless COLUMNS gives their length."""
    return not console.is_terminal and "COLUMNS" not in os.environ


def tell_written(*files: Path | None) -> None:
    """Print the path of each file that was written, on stderr."""
    for file in files:
        if file is not None and file != STDOUT:
            Console(stderr=True).print(f"Wrote {file}", markup=False, highlight=False, soft_wrap=True)


def made_now() -> str:
    """Return the date and this command, for a report."""
    command = shlex.join(["ibrobust", *sys.argv[1:]])
    return f"Made on {datetime.now(timezone.utc):%Y-%m-%d} with ibrobust {__version__}: {command}"
