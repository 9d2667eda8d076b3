"""The lines and panels of a figure: a line for cells that differ only in their seed, a panel for comparable lines."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.settings import (
    HEAD,
    Setting,
    decoder_name,
    fits,
    order,
    setting_of,
    told_apart,
    variant_names,
    variant_of,
)
from ibrobust.reporting.marks import UNATTACKED_SHARE

UNATTACKED = ("zero_gradient_share", "nonfinite_gradient_share")
# Of an attack, and of the worst case over several: an image counts if it is right without an attack and under it.
WORST_CASE = "worst case"
ROBUST = ("robust_accuracy", "worst_case_accuracy")


@dataclass(frozen=True)
class Point:
    """A value at one place of a line.

    Attributes:
        x: place on the axis.
        mean: over the cells.
        low: smallest of the cells'.
        high: largest of the cells'.
        cells: how many.
        is_bound: whether other attacks may break more images of one of them.
    """

    x: float
    mean: float
    low: float
    high: float
    cells: int
    is_bound: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        setting: what its cells have in common.
        decoder: used for its values.
        points: by rising x.
        unattacked: the largest share in [0, 1], over the cells, of images that FGSM did not change, because their
            gradient was zero or not finite; 0 if unknown.
        images: number of images of each of its values under attack; None if unknown.
    """

    setting: Setting
    decoder: str
    points: tuple[Point, ...]
    unattacked: float = 0.0
    images: int | None = None

    @property
    def is_marked(self) -> bool:
        """Whether too many images were not attacked for the accuracy to be reliable."""
        return self.unattacked > UNATTACKED_SHARE


@dataclass(frozen=True)
class Panel:
    """Lines on common axes.

    Attributes:
        title: the decoder, and the difference between this panel's bottleneck models and those of other panels.
        lines: baselines last.
    """

    title: str
    lines: tuple[Line, ...]


def make_point(x: float, values: Sequence[float], *, is_bound: bool = False) -> Point:
    """Return the point at `x` for at least one value."""
    return Point(x, sum(values) / len(values), min(values), max(values), len(values), is_bound)


def fgsm_panels(records: Iterable[StudyRecord]) -> tuple[Panel, ...]:
    """Return accuracy under FGSM against epsilon: a panel for each decoder, and for each objective, width and so on.

    Baselines appear as `arrange` describes.
    """
    return arrange(fgsm_lines(records))


def fgsm_lines(records: Iterable[StudyRecord]) -> list[Line]:
    """Return accuracy under FGSM against epsilon: a line for each setting and decoder, see `_lines`."""
    records = tuple(records)
    swept = sweep_records(records)
    shares: dict[tuple[Setting, str, int | None], dict[str, float]] = {}
    for record in swept:
        if record.quantity in UNATTACKED:
            of_cells = shares.setdefault((setting_of(record), record.decoder, record.num_images), {})
            of_cells[record.cell] = of_cells.get(record.cell, 0.0) + record.value
    lines = _lines(records, (record for record in swept if record.quantity == "accuracy")).get("FGSM", [])
    of_lines = [shares.get((line.setting, line.decoder, line.images)) for line in lines]
    return [
        replace(line, unattacked=max(found.values())) if found else line
        for line, found in zip(lines, of_lines, strict=True)
    ]


def robust_lines(records: Iterable[StudyRecord]) -> dict[str, list[Line]]:
    """Return robust accuracy against epsilon in L-infinity, by attack: a line per setting and decoder, see `_lines`.

    The worst case over all attacks has the name in its records; it replaces the attack WorstCase.
    """
    records = tuple(records)
    lines = _lines(records, (each for each in records if each.quantity in ROBUST and each.norm in ("", "Linf")))
    if WORST_CASE in lines:
        lines = {attack: of_it for attack, of_it in lines.items() if not attack.startswith("WorstCase")}
    return lines


def _lines(records: Sequence[StudyRecord], attacked: Iterable[StudyRecord]) -> dict[str, list[Line]]:
    """Return the lines of accuracies under attack, by attack: a line for each setting and decoder, over its cells.

    If an attack on the cells of a line was run on several numbers of images, the line is that of the most: a mean over
    cells with other numbers of images would be of no images. Clean accuracy on as many images is at epsilon 0.
    """
    clean = {
        (record.cell, record.decoder, record.num_images): record.value
        for record in records
        if record.quantity == "clean_accuracy"
    }
    found: dict[tuple[str, Setting, str], list[StudyRecord]] = {}
    for record in attacked:
        if record.epsilon is not None:
            found.setdefault((record.attack, setting_of(record), record.decoder), []).append(record)
    lines: dict[str, list[Line]] = {}
    for (attack, setting, decoder), of_line in found.items():
        most = max((record.num_images for record in of_line if record.num_images is not None), default=None)
        on_most = [record for record in of_line if record.num_images == most]
        values: dict[float, dict[str, float]] = {}
        for record in on_most:
            values.setdefault(record.epsilon or 0.0, {})[record.cell] = record.value
            if (unattacked := clean.get((record.cell, decoder, most))) is not None:
                values.setdefault(0.0, {}).setdefault(record.cell, unattacked)
        bounds = {record.epsilon for record in on_most if record.upper_bound and record.value}  # nothing is below 0
        points = (
            make_point(at, list(by_cell.values()), is_bound=at in bounds) for at, by_cell in sorted(values.items())
        )
        lines.setdefault(attack, []).append(Line(setting, decoder, tuple(points), images=most))
    return lines


def sweep_records(records: Iterable[StudyRecord]) -> tuple[StudyRecord, ...]:
    """Return the records of FGSM sweeps, without those of FGSM as one attack among others.

    Only a sweep records the images that it could not attack, for as many images as its accuracies.
    """
    records = tuple(record for record in records if record.attack == "FGSM")
    swept = {(record.cell, record.decoder): record.num_images for record in records if record.quantity in UNATTACKED}
    return tuple(
        record for record in records if record.num_images == swept.get((record.cell, record.decoder), record.num_images)
    )


def arrange(lines: Sequence[Line], rows: Sequence[Sequence[Line]] = ()) -> tuple[Panel, ...]:
    """Return the panels of some lines. Every setting is in one panel at least, a baseline's may be in several.

    A baseline is drawn with the decoder of the panel, since a decoder alone can change the accuracy under attack by
    more than an objective does. If it was not measured with that decoder, it is drawn with its first one, and its name
    says so. A baseline is in a panel of its own if another of its kind has the width and epochs of each panel.

    Args:
        lines: to draw.
        rows: the lines of all rows of panels of the figure. A baseline has one decoder in all rows.
    """
    names_of = told_apart(line.setting for line in lines)
    everywhere = {named: _in_all_rows(rows or (lines,), setting) for setting, named in names_of.items()}
    lines = [replace(line, setting=names_of[line.setting]) for line in lines]
    baselines = [line for line in lines if line.setting.is_baseline]
    names = variant_names([line.setting for line in lines])
    panels: dict[tuple[str, Setting], list[Line]] = {}
    for line in lines:
        if not line.setting.is_baseline:
            panels.setdefault((line.decoder, variant_of(line.setting)), []).append(line)
    found = [
        Panel(
            ", ".join([decoder_name(decoder), *names[variant]]),
            (*sorted(of_it, key=lambda line: order(line.setting)), *_fitting(baselines, decoder, variant, everywhere)),
        )
        for (decoder, variant), of_it in panels.items()
    ]
    shown = {replace(line.setting, decoder="") for panel in found for line in panel.lines}
    alone: dict[str, list[Line]] = {}
    for line in baselines:
        if line.setting not in shown:
            alone.setdefault(line.decoder, []).append(line)
    return (*found, *(Panel(decoder_name(decoder), tuple(of_it)) for decoder, of_it in alone.items()))


def _fitting(
    baselines: Sequence[Line], decoder: str, variant: Setting, everywhere: Mapping[Setting, Collection[str]]
) -> tuple[Line, ...]:
    """Return a line for each baseline that belongs on a panel, see `arrange`."""
    by_setting: dict[Setting, dict[str, Line]] = {}
    for line in baselines:
        by_setting.setdefault(line.setting, {})[line.decoder] = line
    chosen = []
    for setting in sorted(by_setting, key=order):
        if fits(setting, variant, by_setting):
            of_it = by_setting[setting]
            common = [name for name in of_it if name in everywhere[setting]] or list(of_it)
            used = of_it[decoder if decoder in common else _first_decoder(common)]
            told = "" if used.decoder == decoder else used.decoder
            chosen.append(replace(used, setting=replace(setting, decoder=told)))
    return tuple(chosen)


def _first_decoder(decoders: Collection[str]) -> str:
    """Return the first decoder of a model: the head that was trained with the encoder, or else the first given."""
    return HEAD if HEAD in decoders else next(iter(decoders))


def _in_all_rows(rows: Sequence[Sequence[Line]], setting: Setting) -> set[str]:
    """Return the decoders of a setting that each row has which has the setting at all."""
    of_rows = [{line.decoder for line in row if line.setting == setting} for row in rows]
    return set.intersection(*filter(None, of_rows))
