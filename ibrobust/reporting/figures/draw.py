"""The figures of a study, drawn from its stored records without loading a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ibrobust.errors import IbrobustError
from ibrobust.records import StudyRecord, read_study_records
from ibrobust.reporting.figures.attacks import draw_attacks
from ibrobust.reporting.figures.fgsm import draw_fgsm
from ibrobust.reporting.figures.generalization import draw_generalization
from ibrobust.reporting.figures.information_plane import draw_information_plane

FIGURES: dict[str, Callable[[Sequence[StudyRecord], Path], list[Path]]] = {
    "fgsm": draw_fgsm,
    "attacks": draw_attacks,
    "information_plane": draw_information_plane,
    "generalization": draw_generalization,
}


def draw_study_figures(
    records_csv: Path,
    out: Path,
    figures: Sequence[str],
    *,
    on_missing: Callable[[IbrobustError], None] | None = None,
) -> list[Path]:
    """Draw figures into the folder `out`, each as PNG and SVG; return the paths. The same records give the same bytes.

    Args:
        records_csv: the records of a study.
        out: folder, created if missing.
        figures: names among ``fgsm``, ``attacks``, ``information_plane`` and ``generalization``.
        on_missing: called, instead of raising, for each figure whose records are missing: an unfinished study may have
            some of its figures.

    Raises:
        IbrobustError: a figure's name is unknown, the records cannot be read, or the records of a figure are missing;
            the other figures are still drawn.
    """
    for name in figures:
        if name not in FIGURES:
            raise IbrobustError(f"Unknown figure {name!r}: choose from {', '.join(FIGURES)}.")
    records = read_study_records(records_csv)
    paths: list[Path] = []
    missing: list[IbrobustError] = []
    for name in dict.fromkeys(figures):
        try:
            paths += FIGURES[name](records, out)
        except IbrobustError as error:
            missing.append(error)
    for lack in missing:
        if on_missing is None:
            raise lack
        on_missing(lack)
    return paths
