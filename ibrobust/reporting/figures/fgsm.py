"""Figure 1: accuracy under FGSM against epsilon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ibrobust.errors import IbrobustError
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.accuracy import draw_accuracy
from ibrobust.reporting.figures.series import fgsm_panels
from ibrobust.reporting.figures.settings import betas_of


def draw_fgsm(records: Sequence[StudyRecord], out: Path) -> list[Path]:
    """Draw accuracy under FGSM against epsilon, one panel per decoder, see `draw_accuracy`.

    Raises:
        IbrobustError: there are no records of an FGSM sweep.
    """
    panels = fgsm_panels(records)
    if not panels:
        raise IbrobustError("The fgsm figure needs records of an FGSM sweep: add a sweep to the study.")
    swept = [record for record in records if record.attack == "FGSM" and record.quantity == "accuracy"]
    return draw_accuracy(panels, swept, out, "fgsm", betas=betas_of(records), ylabel="accuracy under FGSM (%)")
