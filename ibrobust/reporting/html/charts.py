"""The epsilon curves of a report: the position of each line and marker of an inline SVG, and its description."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ibrobust.epsilon import format_epsilon
from ibrobust.readable import per_cent, percent
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.series import Line, Panel, Point, fgsm_panels
from ibrobust.reporting.figures.settings import Setting, betas_of
from ibrobust.reporting.figures.style import DOTTED, Look, looks
from ibrobust.reporting.marks import DAGGER, in_per_cent

# User units of the SVG. Small, so that its text stays readable at a width of 360 pixels.
WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 54, 24, 10, 42
DASHES = {"-": "", "--": "7 4", "-.": "8 3 2 3", DOTTED: "1.5 3"}
# Outlines around the origin, in the shapes of matplotlib's markers.
SHAPES = {
    "o": "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "s": "M-3-3h6v6h-6z",
    "D": "M0-4l4 4l-4 4l-4-4z",
    "^": "M0-4l4 7h-8z",
    "v": "M0 4l4-7h-8z",
    "<": "M-4 0l7-4v8z",
    ">": "M4 0l-7-4v8z",
    "d": "M0-4.5l2.6 4.5l-2.6 4.5l-2.6-4.5z",
    "h": "M0-4l3.5 2v4l-3.5 2l-3.5-2v-4z",
    "p": "M0-4l3.8 2.8l-1.5 4.4h-4.6l-1.5-4.4z",
    "X": "M-3.5-2l1.5-1.5l2 2l2-2l1.5 1.5l-2 2l2 2l-1.5 1.5l-2-2l-2 2l-1.5-1.5l2-2z",
    "P": "M-1.2-4h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
    "*": "M0-4.5l1.3 2.9l3.1.3l-2.3 2.1l.7 3.1l-2.8-1.6l-2.8 1.6l.7-3.1l-2.3-2.1l3.1-.3z",
    "8": "M-1.6-3.8h3.2l2.2 2.2v3.2l-2.2 2.2h-3.2l-2.2-2.2v-3.2z",
    "H": "M-2-3.5h4l2 3.5l-2 3.5h-4l-2-3.5z",
}


@dataclass(frozen=True)
class Mark:
    """One measured point: its position, its epsilon and accuracy as text, and a sentence that describes it."""

    x: float
    y: float
    epsilon: str
    accuracy: str
    reading: str


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: in the legend.
        colour: on white.
        dashes: as SVG writes them.
        shape: outline of its markers.
        is_marked: whether its markers are hollow.
        path: through the means.
        band: around them, from the smallest to the largest; empty if there is only one cell.
        marks: by rising epsilon.
    """

    label: str
    colour: str
    dashes: str
    shape: str
    is_marked: bool
    path: str
    band: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """One panel: ticks are (place, label)."""

    title: str
    epsilons: tuple[str, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    curves: tuple[Curve, ...]


def epsilon_charts(records: Sequence[StudyRecord]) -> tuple[Chart, ...]:
    """Return one chart per panel of the fgsm figure; none without an FGSM sweep.

    Those of the objectives with the most cells come first, and of each objective those with the most cells, since a
    report folds many charts away.
    """
    cells: dict[str, set[str]] = {}
    for record in records:
        if record.beta is not None:
            cells.setdefault(record.objective, set()).add(record.cell)

    def most_cells(panel: Panel) -> tuple[int, int]:
        of_objective = max(len(cells.get(line.setting.objective, ())) for line in panel.lines)
        drawn = (line for line in panel.lines if not line.setting.is_baseline)
        return of_objective, sum(max(point.cells for point in line.points) for line in drawn)

    panels = sorted(fgsm_panels(records), key=most_cells, reverse=True)
    betas = betas_of(records)
    style = looks(list(dict.fromkeys(line.setting for panel in panels for line in panel.lines)), betas)
    return tuple(_chart(panel, style) for panel in panels)


def _chart(panel: Panel, style: Mapping[Setting, Look]) -> Chart:
    epsilons = sorted({point.x for line in panel.lines for point in line.points})
    largest = epsilons[-1] or 1.0

    def across(epsilon: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * epsilon / largest

    curves = tuple(_curve(line, style[line.setting], across) for line in panel.lines)
    return Chart(
        panel.title,
        tuple(map(format_epsilon, epsilons)),
        tuple((round(across(tick), 1), label) for tick, label in _epsilon_ticks(largest)),
        tuple((round(_up(share / 100), 1), str(share)) for share in range(0, 101, 20)),
        curves,
    )


def _up(accuracy: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * accuracy


def _curve(line: Line, look: Look, across: Callable[[float], float]) -> Curve:
    def place(point: Point, accuracy: float) -> str:
        return f"{across(point.x):.1f} {_up(accuracy):.1f}"

    label = line.setting.label()
    there = [place(point, point.high) for point in line.points]
    back = [place(point, point.low) for point in reversed(line.points)]
    several = any(point.cells > 1 for point in line.points)
    return Curve(
        label=label,
        colour=look.colour,
        dashes=DASHES[look.dashes],
        shape=SHAPES[look.marker],
        is_marked=line.is_marked,
        path="M" + "L".join(place(point, point.mean) for point in line.points),
        band="M" + "L".join([*there, *back]) + "z" if several else "",
        marks=tuple(
            Mark(
                x=round(across(point.x), 1),
                y=round(_up(point.mean), 1),
                epsilon=format_epsilon(point.x),
                accuracy=in_per_cent(point.mean, is_bound=point.is_bound),
                reading=_reading(line, point),
            )
            for point in line.points
        ),
    )


def _reading(line: Line, point: Point) -> str:
    number = in_per_cent(point.mean, is_bound=point.is_bound)
    text = f"{line.setting.label()} at ε = {format_epsilon(point.x)}: {number}%"
    if point.cells > 1:
        text += f" ({per_cent(point.low)} to {per_cent(point.high)} in {point.cells} cells)"
    if line.images is not None:
        text += f", n = {line.images:,}"
    if line.is_marked:
        text += f" {DAGGER} {percent(line.unattacked)} of the images were not attacked"
    return text


def _epsilon_ticks(largest: float) -> list[tuple[float, str]]:
    """Return up to six epsilons, with n/255 as their labels, evenly spaced by a power of two."""
    step = 2.0 ** math.ceil(math.log2(255 * largest / 5))
    count = int(255 * largest / step + 1e-6)
    return [(n * step / 255, f"{n * step:g}/255" if n else "0") for n in range(count + 1)]
