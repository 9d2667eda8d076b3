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
            gradient was zero or not finite; None if unknown.
        images: number of images of each of its values under attack; None if unknown.
    """

    setting: Setting
    decoder: str
    points: tuple[Point, ...]
    unattacked: float | None = None
    images: int | None = None

    @property
    def is_masked(self) -> bool:
        """Whether too many images were not attacked for the accuracy to be reliable."""
        return self.unattacked is not None and self.unattacked > UNATTACKED_SHARE


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
    """Return accuracy under FGSM against epsilon: a line for each setting and decoder, over its cells on most images.

    The accuracy without an attack is the point at epsilon 0, if it was measured on as many images as the attack.
    """
    records = tuple(records)
    values: dict[tuple[Setting, str], dict[float, dict[str, float]]] = {}
    images: dict[tuple[str, str], set[int | None]] = {}
    shares: dict[tuple[Setting, str], dict[str, float]] = {}
    bounds: dict[tuple[Setting, str], set[float]] = {}
    swept, most = _on_most_images(sweep_records(records))
    for record in swept:
        key = (setting_of(record), record.decoder)
        if record.quantity == "accuracy" and record.epsilon is not None:
            values.setdefault(key, {}).setdefault(record.epsilon, {})[record.cell] = record.value
            images.setdefault((record.cell, record.decoder), set()).add(record.num_images)
            if record.upper_bound and record.value:  # nothing is below 0
                bounds.setdefault(key, set()).add(record.epsilon)
        elif record.quantity in UNATTACKED:
            of_cells = shares.setdefault(key, {})
            of_cells[record.cell] = of_cells.get(record.cell, 0.0) + record.value
    for record in records:
        key = (setting_of(record), record.decoder)
        if record.quantity == "clean_accuracy" and images.get((record.cell, record.decoder)) == {record.num_images}:
            values[key].setdefault(0.0, {}).setdefault(record.cell, record.value)
    return [
        Line(
            setting,
            decoder,
            _points(by_epsilon, bounds.get((setting, decoder), ())),
            max(shares[setting, decoder].values()) if (setting, decoder) in shares else None,
            most["FGSM", setting, decoder],
        )
        for (setting, decoder), by_epsilon in values.items()
    ]


def robust_lines(records: Iterable[StudyRecord]) -> dict[str, list[Line]]:
    """Return robust accuracy against epsilon in L-infinity, by attack: a line for each setting and decoder.

    The worst case over all attacks has the name in its records; it replaces the attack WorstCase. If an attack on the
    cells of a line was run on several numbers of images, the line is that of the most. Clean accuracy on as many images
    is the point at epsilon 0.
    """
    records = tuple(records)
    clean = {
        (record.cell, record.decoder, record.num_images): record.value
        for record in records
        if record.quantity == "clean_accuracy"
    }
    values: dict[str, dict[tuple[Setting, str], dict[float, dict[str, float]]]] = {}
    bounds: dict[tuple[str, Setting, str], set[float]] = {}
    robust, most = _on_most_images(
        record for record in records if record.quantity in ROBUST and record.norm in ("", "Linf")
    )
    for record in robust:
        if record.epsilon is not None:
            by_epsilon = values.setdefault(record.attack, {}).setdefault((setting_of(record), record.decoder), {})
            by_epsilon.setdefault(record.epsilon, {})[record.cell] = record.value
            if record.upper_bound and record.value:  # nothing is below 0
                bounds.setdefault((record.attack, setting_of(record), record.decoder), set()).add(record.epsilon)
            if (unattacked := clean.get((record.cell, record.decoder, record.num_images))) is not None:
                by_epsilon.setdefault(0.0, {}).setdefault(record.cell, unattacked)
    if WORST_CASE in values:
        values = {attack: lines for attack, lines in values.items() if not attack.startswith("WorstCase")}
    return {
        attack: [
            Line(
                setting,
                decoder,
                _points(by_epsilon, bounds.get((attack, setting, decoder), ())),
                images=most[attack, setting, decoder],
            )
            for (setting, decoder), by_epsilon in lines.items()
        ]
        for attack, lines in values.items()
    }


def _on_most_images(
    records: Iterable[StudyRecord],
) -> tuple[list[StudyRecord], dict[tuple[str, Setting, str], int | None]]:
    """Return the records that are on the most images of their line, and this number by attack, setting and decoder.

    A mean over cells with other numbers of images would be of no images.
    """
    of_lines: dict[tuple[str, Setting, str], list[StudyRecord]] = {}
    for record in records:
        of_lines.setdefault((record.attack, setting_of(record), record.decoder), []).append(record)
    most = {
        line: max((record.num_images for record in found if record.num_images is not None), default=None)
        for line, found in of_lines.items()
    }
    return [record for line, found in of_lines.items() for record in found if record.num_images == most[line]], most


def _points(by_epsilon: dict[float, dict[str, float]], bounds: Collection[float] = ()) -> tuple[Point, ...]:
    return tuple(
        make_point(epsilon, list(of_cells.values()), is_bound=epsilon in bounds)
        for epsilon, of_cells in sorted(by_epsilon.items())
    )


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
    says so. Baselines whose width and epochs no panel has are in panels of their own.

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
