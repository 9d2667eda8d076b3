"""Studies: grids of recipes, run cell by cell, measured, and kept as records that figures are drawn from."""

from ibrobust.study.cells import Cell, expand
from ibrobust.study.records import gather_records
from ibrobust.study.run import prepare_study, run_cell, run_study
from ibrobust.study.spec import Study, load_study, shipped_studies, stored_study
from ibrobust.study.state import CellState, study_states

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
