"""The look of a study's figures, readable in one column and in grey, and their saving, always with the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log10
from pathlib import Path
from string import ascii_lowercase
from textwrap import wrap
from typing import Any

from ibrobust.atomic import atomic_path
from ibrobust.records import UNKNOWN
from ibrobust.reporting.figures.settings import Setting

# Inches: one column and the full text of a two-column paper.
COLUMN_WIDTH = 3.35
TEXT_WIDTH = 6.9
PANEL_HEIGHT = 2.25
BASELINE = "#000000"
# A baseline too, but the robust one: no reader should take it for cross-entropy.
ADVERSARIAL = "#008a64"
# Nor should one take a model from elsewhere, of which nothing is known, for it.
FROM_ELSEWHERE = "#2f5fc4"
LIGHTEST = 0.65  # the share of the way to white that a line on paper may be moved
NOTE = "#404040"
BETA_MARKERS = "osD^v<>dhp"
BASELINE_MARKERS = "XP*8Hphd"
DOTTED = (0, (1, 1.2))
# A name of a model or a data set may have dollar signs, between which matplotlib would read mathematics.
PLAIN_TEXT = {"text.parse_math": False}
_STYLE = {
    **PLAIN_TEXT,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that every machine draws the same
    "font.size": 7.5,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.4,
    "lines.markeredgewidth": 0.8,
    "svg.hashsalt": "ibrobust",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Look:
    """Colour, line style and marker of one line."""

    colour: str
    dashes: Any
    marker: str


# Where a beta's logarithm to base 10 lies on the colour map, in [0, 1]; 0 has the map's start.
COLOUR_PLACES = ((-5.0, 0.07), (-4.0, 0.1), (-2.0, 0.32), (0.0, 1.0))
NEAREST_COLOURS = 0.07


def baseline_colour(setting: Setting) -> str:
    """Return the colour of a setting without a beta: black, and others for adversarial training and own models."""
    return {"adversarial": ADVERSARIAL, UNKNOWN: FROM_ELSEWHERE}.get(setting.objective, BASELINE)


def lighter(colour: str, share: float) -> str:
    """Return a colour #rrggbb, moved by a share of the way to white."""
    parts = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def beta_colours(betas: Sequence[float]) -> dict[float, str]:
    """Return a colour for each beta, ordered by lightness, which is visible in grey and to colour-blind readers.

    A beta has the same colour in every figure, unless others of the figure are so near that they must be told apart.

    Args:
        betas: rising.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from numpy import interp

    # The ends of the colour map are not used: one looks black, the other is invisible on paper.
    first, last = 0.06, 0.74
    logarithms, shares = zip(*COLOUR_PLACES, strict=True)
    wished = [float(interp(log10(beta), logarithms, shares)) if beta > 0 else 0.0 for beta in betas]
    places = spread(wished, gap=min(NEAREST_COLOURS, 1 / max(len(betas) - 1, 1)))
    return {
        beta: to_hex(colormaps["plasma"](first + (last - first) * place))
        for beta, place in zip(betas, places, strict=True)
    }


def spread(places: Sequence[float], *, gap: float) -> list[float]:
    """Return places in [0, 1] in their order, moved apart until neighbours are `gap` from each other, if all fit."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    found = list(places)
    for index, before in zip(order[1:], order, strict=False):
        found[index] = max(found[index], found[before] + gap)
    ceiling = 1.0
    for index in reversed(order):
        found[index] = min(found[index], ceiling)
        ceiling = found[index] - gap
    return found


def looks(settings: Sequence[Setting], betas: Sequence[float]) -> dict[Setting, Look]:
    """Return a look for each setting: colour and marker by beta, dotted without noise, see `baseline_colour`.

    A baseline with DropConnect is dashed, one with dropout dash-dotted. Baselines after as many as there are markers
    are lighter, so that no two look alike.
    """
    colours = beta_colours(betas)
    baselines = list(dict.fromkeys(setting for setting in settings if setting.is_baseline))
    found = {}
    for setting in settings:
        if setting.beta is None:
            dashes = "--" if setting.dropconnect else "-." if setting.dropout else "-"
            again, place = divmod(baselines.index(setting), len(BASELINE_MARKERS))
            most = max((len(baselines) - 1) // len(BASELINE_MARKERS), 1)
            colour = lighter(baseline_colour(setting), LIGHTEST * again / most)
            found[setting] = Look(colour, dashes, BASELINE_MARKERS[place])
        else:
            marker = BETA_MARKERS[betas.index(setting.beta) % len(BETA_MARKERS)]
            found[setting] = Look(colours[setting.beta], DOTTED if setting.noise is False else "-", marker)
    return found


@contextmanager
def study_style() -> Iterator[Callable[[float, float], Any]]:
    """Set matplotlib's settings for a study's figures in the block; yield a function that makes a figure."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def new(width: float, height: float) -> Any:
        # Without pyplot: no global state, no window, no backend to choose.
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure

    with rc_context(_STYLE):
        yield new


def save(figure: Any, out: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG into the folder `out`; return both paths. The same figure gives the same bytes."""
    paths = [out / f"{name}.png", out / f"{name}.svg"]
    with atomic_path(paths[0]) as temporary:
        figure.savefig(temporary, format="png", dpi=300, metadata={"Software": None})
    with atomic_path(paths[1]) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return paths


def _legend_columns(width: float, labels: Sequence[str]) -> int:
    """Return the number of columns that fit into a width in inches; matplotlib fills one column after the other."""
    for columns in range(min(6, len(labels)), 1, -1):
        full, rest = divmod(len(labels), columns)
        lengths = [full + (column < rest) for column in range(columns)]
        starts = [sum(lengths[:column]) for column in range(columns)]
        widest = [max(map(len, labels[at : at + rows])) for at, rows in zip(starts, lengths, strict=True)]
        # Width in inches of a handle with its gaps, and of a letter.
        if sum(0.42 + 0.053 * letters for letters in widest) <= width:
            return columns
    return 1


@dataclass(frozen=True)
class Place:
    """Axes, and whether they are at the left, at the top and at the bottom of the figure."""

    axes: Any
    left: bool
    top: bool
    bottom: bool


def grid_of_axes(
    new: Callable[[float, float], Any], panels: int, *, sharey: bool = True
) -> tuple[Any, tuple[Place, ...]]:
    """Return a figure and axes for some panels: up to two fit in a column, more are placed across the page.

    Args:
        new: makes a figure.
        panels: at least one.
        sharey: whether all panels share one scale of the y-axis.
    """
    columns = 1 if panels <= 2 else 2 if panels == 4 else 3
    rows = -(-panels // columns)
    figure = new(COLUMN_WIDTH if columns == 1 else TEXT_WIDTH, rows * PANEL_HEIGHT + 0.35)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False).flat)
    for left_over in axes[panels:]:
        left_over.remove()
    places = tuple(
        Place(one, index % columns == 0, index < columns, index + columns >= panels)
        for index, one in enumerate(axes[:panels])
    )
    for place in places:
        # Shared axes have tick labels only in the last row, which may have one panel fewer.
        place.axes.tick_params(labelbottom=place.bottom)
    return figure, places


def add_legend(place: Any, names: Sequence[str], handles: Sequence[Any], **options: Any) -> Any:
    """Draw a legend into a figure or axes and return it; matplotlib would leave out names that begin with "_"."""
    legend = place.legend(handles, [str(number) for number in range(len(names))], **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return legend


def legend_below(figure: Any, entries: dict[str, Any], note: str) -> None:
    """Write a note and the legend under the panels; the figure grows by their height."""
    width = figure.get_figwidth()
    columns = _legend_columns(width, list(entries))
    lines = [line for part in note.split("\n") for line in wrap(part, int(width / 0.045))]  # inches of a letter
    figure.set_figheight(figure.get_figheight() + 0.12 * len(lines) + 0.15 * -(-len(entries) // columns) + 0.1)
    legend = add_legend(
        figure,
        list(entries),
        list(entries.values()),
        loc="outside lower left",
        ncols=columns,
        title="\n".join(lines),
        title_fontsize=6.3,
        alignment="left",
        handlelength=2.2,
        columnspacing=1.0,
    )
    legend.get_title().set_color(NOTE)


def name_panels(places: Sequence[Place], titles: Sequence[str]) -> None:
    """Write the titles, with letters if there are several."""
    figure = places[0].axes.figure
    width = figure.get_figwidth() / max(sum(place.top for place in places), 1)
    for index, (place, title) in enumerate(zip(places, titles, strict=True)):
        letter = f"({ascii_lowercase[index % 26]}) " if len(places) > 1 else ""
        lines = wrap(letter + title, int(width / 0.07))  # inches of a letter
        place.axes.set_title("\n".join(lines), loc="left")
