"""Studies: grids of recipes, trained and evaluated cell by cell, and stored as records for the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.study.cells import Cell, expand
    from ibrobust.study.run import prepare_study, run_cell, run_study
    from ibrobust.study.spec import Study, load_study, shipped_studies, stored_study
    from ibrobust.study.state import CellState, study_states
    from ibrobust.study.write_records import gather_records

_HOMES = {
    "ibrobust.study.cells": "Cell expand",
    "ibrobust.study.state": "CellState study_states",
    "ibrobust.study.spec": "Study load_study shipped_studies stored_study",
    "ibrobust.study.write_records": "gather_records",
    "ibrobust.study.run": "prepare_study run_cell run_study",
}

__all__ = [
    "Cell",
    "CellState",
    "Study",
    "expand",
    "gather_records",
    "load_study",
    "prepare_study",
    "run_cell",
    "run_study",
    "shipped_studies",
    "stored_study",
    "study_states",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
