"""Panels of accuracy under attack against epsilon, figure 1 among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ibrobust.readable import percent
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.series import Line, Panel
from ibrobust.reporting.figures.settings import averaged_over
from ibrobust.reporting.figures.style import (
    DOTTED,
    NOTE,
    Look,
    grid_of_axes,
    legend_below,
    looks,
    name_panels,
    save,
    spread,
    study_style,
)
from ibrobust.reporting.marks import BOUND, DAGGER, UNATTACKED_SHARE

# Larger epsilons are written as decimals.
MOST_AS_FRACTION = 64 / 255


def draw_accuracy(
    panels: Sequence[Panel],
    shown: Sequence[StudyRecord],
    out: Path,
    name: str,
    *,
    betas: Sequence[float],
    ylabel: str,
) -> list[Path]:
    """Draw panels of accuracy against epsilon: one line per beta, dotted without noise, baselines in black.

    A line is the mean over seeds, and its band reaches from the smallest to the largest. Upper bounds are marked. If
    FGSM did not change more than 1% of the images, the markers are hollow and the line ends in a dagger with that
    share.

    Args:
        panels: at least one.
        shown: the records behind the points.
        out: folder.
        name: of the files.
        betas: of all figures of the study, rising, so that each beta has one colour in all of them.
        ylabel: of the y-axis.
    """
    settings = list(dict.fromkeys(line.setting for panel in panels for line in panel.lines))
    style = looks(settings, betas)
    with study_style() as new:
        from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

        largest = max(point.x for panel in panels for line in panel.lines for point in line.points)
        scale = 255 if largest <= MOST_AS_FRACTION else 1
        figure, places = grid_of_axes(new, len(panels))
        name_panels(places, [panel.title for panel in panels])
        for place, panel in zip(places, panels, strict=True):
            axes = place.axes
            for line in panel.lines:
                _draw(axes, line, style[line.setting], scale)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
            axes.set_ylim(0, 1)
            axes.set_xlim(left=0)
            _daggers(axes, panel, style, scale)
            if scale == 255:
                axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 4, 8], integer=True))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}/255" if x else "0"))
            if place.left:
                axes.set_ylabel(ylabel)
            if place.bottom:
                axes.set_xlabel("ε")
        legend_below(figure, _legend(panels, style), _note(shown, panels))
        return save(figure, out, name)


def _draw(axes: Any, line: Line, look: Look, scale: int) -> None:
    x = [scale * point.x for point in line.points]
    axes.plot(
        x,
        [point.mean for point in line.points],
        color=look.colour,
        linestyle=look.dashes,
        marker=look.marker,
        markerfacecolor="white" if line.is_marked else look.colour,
        clip_on=False,
        zorder=3,
    )
    for place, point in zip(x, line.points, strict=True):
        if point.is_bound:
            axes.annotate(BOUND, (place, point.mean), (0, 2), textcoords="offset points", ha="center", color=NOTE)
    if any(point.cells > 1 for point in line.points):
        axes.fill_between(
            x,
            [point.low for point in line.points],
            [point.high for point in line.points],
            color=look.colour,
            alpha=0.15,
            linewidth=0,
        )


def _daggers(axes: Any, panel: Panel, style: dict[Any, Look], scale: int) -> None:
    """Write the share of unattacked images beside the ends of the lines, without overlap."""
    masked = [line for line in panel.lines if line.is_marked]
    places = [1 - place for place in spread([1 - line.points[-1].mean for line in masked], gap=0.075)]
    for line, place in zip(masked, places, strict=True):
        axes.annotate(
            f"{DAGGER} {percent(line.unattacked)}",
            xy=(scale * line.points[-1].x, line.points[-1].mean),
            xytext=(1.02, place),
            textcoords="axes fraction",
            color=NOTE,  # small text needs more contrast than a line
            fontsize=6.5,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": style[line.setting].colour},
        )


def _legend(panels: Sequence[Panel], style: dict[Any, Look]) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    lines = [line for panel in panels for line in panel.lines]
    entries = {}
    for line in sorted(lines, key=lambda line: -1.0 if line.setting.beta is None else line.setting.beta):
        look = style[line.setting]
        if line.setting.beta is not None:
            entries[f"β = {line.setting.beta:g}"] = Line2D([], [], color=look.colour, marker=look.marker)
    for noise, label in ((True, "with noise"), (False, "without noise")):
        if any(line.setting.noise is noise and not line.setting.is_baseline for line in lines):
            entries[label] = Line2D([], [], color=NOTE, linestyle="-" if noise else DOTTED)
    for line in lines:
        if line.setting.beta is None:
            look = style[line.setting]
            entries[line.setting.label()] = Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes)
    if any(line.is_marked for line in lines):
        entries[f"{DAGGER} gradient vanished"] = Line2D(
            [], [], color=NOTE, marker="o", markerfacecolor="white", linestyle="none"
        )
    return entries


def _note(shown: Sequence[StudyRecord], panels: Sequence[Panel]) -> str:
    images = sorted({line.images for panel in panels for line in panel.lines if line.images is not None})
    points = [point for panel in panels for line in panel.lines for point in line.points]
    parts = [f"n = {' to '.join(f'{count:,}' for count in dict.fromkeys((images[0], images[-1])))}"] if images else []
    if mean := averaged_over([point.cells for point in points], shown):
        parts.append(f"line: {mean}; band: smallest to largest")
    if any(point.is_bound for point in points):
        parts.append(f"{BOUND} upper bound: other attacks may break more images")
    note = "; ".join(parts)
    if any(line.is_marked for panel in panels for line in panel.lines):
        note += (
            f"\n{DAGGER} not a sign of robustness: FGSM did not change this share of the images (over "
            f"{UNATTACKED_SHARE:.0%}), "
            "because their gradient is zero or not finite"
        )
    return note
