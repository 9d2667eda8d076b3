"""A study's records: one tidy CSV with one number per row, for pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ibrobust.atomic import write_text
from ibrobust.objectives import objective_class
from ibrobust.records import COLUMNS
from ibrobust.study.cells import Cell, expand
from ibrobust.study.spec import Study


def cell_columns(study: Study, cell: Cell) -> dict[str, Any]:
    """Return the columns that are equal in all rows of a cell; None means not applicable, an empty field."""
    recipe = cell.recipe
    kind = objective_class(recipe.objective)
    return {
        "study": study.name,
        "cell": cell.name,
        "model": cell.model,
        "objective": recipe.objective,
        "beta": recipe.beta if "beta" in kind.options else None,
        "noise": recipe.noise if kind.adds_noise else None,
        "dropout": recipe.dropout,
        "dropconnect": recipe.dropconnect,
        "width": recipe.width,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "setting": cell.setting,
    }


def write_records(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, each a mapping from some of the columns to values, as one whole file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    write_text(path, text.getvalue())


def gather_records(study: Study) -> Path:
    """Write the records of all finished cells into the study's own file; return its path."""
    rows: list[dict[str, Any]] = []
    for path in finished_records(study):
        with path.open(encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    target = study.folder / "records.csv"
    write_records(target, rows)
    return target


def finished_records(study: Study) -> Sequence[Path]:
    """Return the record files of the finished cells, in the order of the cells."""
    paths = [cell_folder(study, cell.name) / "records.csv" for cell in expand(study)]
    return [path for path in paths if path.is_file()]


def cell_folder(study: Study, cell: str) -> Path:
    """Return the folder of a cell's state, snapshots and records."""
    return study.folder / "cells" / cell
