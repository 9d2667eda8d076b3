"""The accuracy under stronger attacks than FGSM: one panel per attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ibrobust.errors import IbrobustError
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.accuracy import draw_accuracy
from ibrobust.reporting.figures.series import ROBUST, WORST_CASE, Panel, arrange, fgsm_lines, robust_lines
from ibrobust.reporting.figures.settings import betas_of


def attack_panels(records: Sequence[StudyRecord]) -> tuple[Panel, ...]:
    """Return FGSM's panels first, then each attack's in the order of the records, and the worst case of all last.

    FGSM's lines come from the sweep, for the models and decoders with another attack; without a sweep they come from
    FGSM as one attack among others.
    """
    by_attack = robust_lines(records)
    attacked = {(line.setting, line.decoder) for lines in by_attack.values() for line in lines}
    swept = [line for line in fgsm_lines(records) if (line.setting, line.decoder) in attacked]
    named = {**by_attack, **({"FGSM": swept} if swept else {})}
    rows = tuple(named.values())
    several = len({panel.title for lines in rows for panel in arrange(lines)}) > 1
    order = sorted(named, key=lambda attack: (attack != "FGSM", attack == WORST_CASE))
    return tuple(
        replace(panel, title=f"{attack}, {panel.title}" if several else attack)
        for attack in order
        for panel in arrange(named[attack], rows)
    )


def draw_attacks(records: Sequence[StudyRecord], out: Path) -> list[Path]:
    """Draw accuracy under each attack against epsilon, as `draw_accuracy` draws it.

    Raises:
        IbrobustError: there are no records of an attack in L-infinity other than the FGSM sweep.
    """
    panels = attack_panels(records)
    if not panels:
        raise IbrobustError(
            "The attacks figure needs records of an attack in L-infinity other than the FGSM sweep: add one to the "
            "study's attacks."
        )
    of_panels = [
        record
        for record in records
        if record.quantity in ROBUST or (record.attack == "FGSM" and record.quantity == "accuracy")
    ]
    return draw_accuracy(panels, of_panels, out, "attacks", betas=betas_of(records), ylabel="accuracy under attack (%)")
