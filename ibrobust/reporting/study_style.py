"""How a study's figures look, and how they are saved: legible in one column and in grey, and always the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from ibrobust.atomic import atomic_path
from ibrobust.reporting.study_series import Setting

# Inches: one column and the full text of a two-column paper.
COLUMN_WIDTH = 3.35
TEXT_WIDTH = 6.9
BASELINE = "#000000"
NOTE = "#404040"
BETA_MARKERS = "osD^v<>dhp"
BASELINE_MARKERS = "XP*8H"
DOTTED = (0, (1, 1.2))
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
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


def beta_colours(betas: Sequence[float], *, dark: bool = False) -> dict[float, str]:
    """Return a colour for each beta, in the order of their lightness, which greyscale and colour-blind readers see.

    Args:
        betas: rising.
        dark: for a dark background.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    # The ends of the map are left out: one is lost in black, the other in the paper.
    first, last = (0.42, 0.98) if dark else (0.06, 0.74)
    step = (last - first) / max(len(betas) - 1, 1)
    return {beta: to_hex(colormaps["plasma"](first + step * rank)) for rank, beta in enumerate(betas)}


def looks(settings: Sequence[Setting], betas: Sequence[float]) -> dict[Setting, Look]:
    """Return a look for each setting: colour and marker by beta, dotted without noise, baselines black.

    A baseline with DropConnect is dashed, one with dropout dash-dotted.
    """
    colours = beta_colours(betas)
    baselines = list(dict.fromkeys(setting for setting in settings if setting.is_baseline))
    found = {}
    for setting in settings:
        if setting.beta is None:
            dashes = "--" if setting.dropconnect else "-." if setting.dropout else "-"
            marker = BASELINE_MARKERS[baselines.index(setting) % len(BASELINE_MARKERS)]
            found[setting] = Look(BASELINE, dashes, marker)
        else:
            marker = BETA_MARKERS[betas.index(setting.beta) % len(BETA_MARKERS)]
            found[setting] = Look(colours[setting.beta], DOTTED if setting.noise is False else "-", marker)
    return found


@contextmanager
def study_style() -> Iterator[Callable[[float, float], Any]]:
    """Within the block, matplotlib's settings are those of a study's figures; yields what makes a figure of a size."""
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


def grid_of_axes(
    new: Callable[[float, float], Any], panels: int, *, height: float, extra: float, sharey: bool = True
) -> tuple[Any, list[Any]]:
    """Return a figure and axes for some panels: up to two fit in a column, more stand in pairs across the page.

    Args:
        new: makes a figure.
        panels: at least one.
        height: of a panel, in inches.
        extra: height for what stands below the panels, in inches.
        sharey: whether one scale of the y-axis is for all.
    """
    columns = 1 if panels <= 2 else 2
    rows = -(-panels // columns)
    figure = new(COLUMN_WIDTH if columns == 1 else TEXT_WIDTH, rows * height + extra)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False).flat)
    for left_over in axes[panels:]:
        left_over.remove()
    return figure, axes[:panels]


def legend_below(figure: Any, entries: dict[str, Any], note: str) -> None:
    """Write the legend under the panels, where it hides nothing, below a note in lines that fit."""
    wide = figure.get_figwidth() > COLUMN_WIDTH
    for label, entry in entries.items():
        entry.set_label(label)
    legend = figure.legend(
        handles=list(entries.values()),
        loc="outside lower left",
        ncols=6 if wide else 3,
        title="\n".join(line for part in note.split("\n") for line in wrap(part, 150 if wide else 72)),
        title_fontsize=6.3,
        alignment="left",
        handlelength=2.2,
        columnspacing=1.0,
    )
    legend.get_title().set_color(NOTE)


def name_panels(axes: Sequence[Any], titles: Sequence[str]) -> None:
    """Write the titles, lettered where there are several."""
    for letter, one, title in zip("abcdefghijklmnopqrstuvwxyz" * 4, axes, titles, strict=False):
        one.set_title(f"({letter}) {title}" if len(axes) > 1 else title, loc="left")
