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
    "Cell": "ibrobust.study.cells",
    "CellState": "ibrobust.study.state",
    "Study": "ibrobust.study.spec",
    "expand": "ibrobust.study.cells",
    "gather_records": "ibrobust.study.write_records",
    "load_study": "ibrobust.study.spec",
    "prepare_study": "ibrobust.study.run",
    "run_cell": "ibrobust.study.run",
    "run_study": "ibrobust.study.run",
    "shipped_studies": "ibrobust.study.spec",
    "stored_study": "ibrobust.study.spec",
    "study_states": "ibrobust.study.state",
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
