"""Figure 2: the information plane, one trajectory per beta."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ibrobust.errors import IbrobustError
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.series import Point, make_point
from ibrobust.reporting.figures.settings import (
    Setting,
    averaged_over,
    betas_of,
    fits,
    order,
    setting_of,
    told_apart,
    variant_names,
    variant_of,
)
from ibrobust.reporting.figures.style import (
    NOTE,
    Look,
    grid_of_axes,
    legend_below,
    looks,
    name_panels,
    save,
    study_style,
)

FAINTEST = 0.2
# The axis is logarithmic if the largest residual information is this many times the smallest.
LOGARITHMIC_FROM = 20


@dataclass(frozen=True)
class Trajectory:
    """The path of one setting through the plane, averaged over its seeds.

    Attributes:
        setting: what its cells have in common.
        epochs: rising.
        residual: the residual information I[X;Y|Z] at each epoch, in nats; `x` of each point is the epoch.
        entropy: H[Z] at each epoch, in nats.
        floor: the estimate of H[Z] for noise alone, in nats, averaged likewise; None if it is not recorded.
    """

    setting: Setting
    epochs: tuple[int, ...]
    residual: tuple[Point, ...]
    entropy: tuple[Point, ...]
    floor: float | None


def trajectories(records: Iterable[StudyRecord]) -> tuple[Trajectory, ...]:
    """Return a trajectory for each setting, over the epochs at which all of its cells have both quantities."""
    values: dict[Setting, dict[str, dict[str, dict[int, float]]]] = {}
    floors: dict[Setting, dict[tuple[str, int], float]] = {}
    for record in records:
        if record.epoch is None:
            continue
        setting = setting_of(record)
        if record.quantity in ("entropy", "label_information"):
            of_cell = values.setdefault(setting, {}).setdefault(record.cell, {"entropy": {}, "label_information": {}})
            of_cell[record.quantity][record.epoch] = record.value
        elif record.quantity == "noise_floor":
            floors.setdefault(setting, {})[record.cell, record.epoch] = record.value
    found = []
    for setting, cells in values.items():
        common = set.intersection(*(set(both["entropy"]) & set(both["label_information"]) for both in cells.values()))
        epochs = tuple(sorted(common))
        if epochs:
            entropy, residual = (
                tuple(make_point(epoch, [both[quantity][epoch] for both in cells.values()]) for epoch in epochs)
                for quantity in ("entropy", "label_information")
            )
            of_cells = floors.get(setting, {}).values()
            floor = fmean(of_cells) if of_cells else None
            found.append(Trajectory(setting, epochs, residual, entropy, floor))
    return tuple(found)


def draw_information_plane(records: Sequence[StudyRecord], out: Path) -> list[Path]:
    """Draw H[Z] against I[X;Y|Z] on the test set, in panels with and without noise, fading towards the first epoch.

    A trajectory is the mean over seeds; whiskers at its last epoch reach from the smallest to the largest.

    Raises:
        IbrobustError: there are no records of an information plane.
    """
    found = trajectories(records)
    if not found:
        raise IbrobustError(
            "The information_plane figure needs records of an information plane: add it to the study's evaluations."
        )
    style = looks([trajectory.setting for trajectory in found], betas_of(records))
    panels = _panels(found)
    with study_style() as new:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        residuals = [(point.low, point.high) for trajectory in found for point in trajectory.residual]
        smallest, largest = min(low for low, _ in residuals), max(high for _, high in residuals)
        figure, places = grid_of_axes(new, len(panels), sharey=False)
        name_panels(places, [title for title, _ in panels])
        for place, (_, shown) in zip(places, panels, strict=True):
            axes = place.axes
            for trajectory in shown:
                _draw(axes, trajectory, style[trajectory.setting])
            _floor(axes, shown)
            axes.margins(0.06, 0.1)
            # Without noise Z follows from X, H[Z|X] is not zero, and the entropy is no information.
            noisy = any(trajectory.setting.noise for trajectory in shown)
            axes.set_ylabel("preserved: I[X;Z] = H[Z] (nats)" if noisy else "H[Z] (nats)")
            if place.bottom:
                axes.set_xlabel("residual: I[X;Y|Z] (nats)")
            if smallest > 0 and largest / smallest > LOGARITHMIC_FROM:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
        legend_below(figure, _legend(found, style), _note(found, records))
        return save(figure, out, "information_plane")


def _panels(found: Sequence[Trajectory]) -> list[tuple[str, list[Trajectory]]]:
    """Return (title, trajectories): with noise, then without, each split further if the settings differ.

    Baselines are in the panels of models with noise if they add noise, or else in those without noise. Those that fit
    in none are in panels of their own.
    """
    names = variant_names(trajectory.setting for trajectory in found)
    baselines = [trajectory for trajectory in found if trajectory.setting.is_baseline]
    panels = []
    for noise, title in ((True, "with zero-entropy noise"), (False, "without noise"), (None, "")):
        for variant, words in names.items():
            shown = [
                trajectory
                for trajectory in found
                if trajectory.setting.noise is noise
                and not trajectory.setting.is_baseline
                and variant_of(trajectory.setting) == variant
            ]
            if not shown:
                continue
            alike = [each for each in baselines if bool(each.setting.noise) is bool(noise)]
            settings = [each.setting for each in alike]
            shown += [each for each in alike if fits(each.setting, variant, settings)]
            panels.append((", ".join(filter(None, [title, *words])), shown))
    left = [each for each in baselines if not any(each in shown for _, shown in panels)]
    for noisy, title in ((True, "without bottleneck, with zero-entropy noise"), (False, "without bottleneck")):
        if alone := [each for each in left if bool(each.setting.noise) is noisy]:
            panels.append((title, alone))
    return panels


def _draw(axes: Any, trajectory: Trajectory, look: Look) -> None:
    x = [point.mean for point in trajectory.residual]
    y = [point.mean for point in trajectory.entropy]
    opacity = fading(len(x))
    for start in range(len(x) - 1):
        axes.plot(
            x[start : start + 2],
            y[start : start + 2],
            color=look.colour,
            linestyle=look.dashes,
            alpha=opacity[start + 1],
        )
    for index, alpha in enumerate(opacity):
        last = index == len(x) - 1
        axes.plot(
            x[index],
            y[index],
            color=look.colour,
            marker=look.marker,
            alpha=alpha,
            markersize=5.5 if last else 3.0,
            zorder=3,
        )
    across, up = trajectory.residual[-1], trajectory.entropy[-1]
    if up.cells > 1:
        axes.errorbar(
            across.mean,
            up.mean,
            xerr=[[across.mean - across.low], [across.high - across.mean]],
            yerr=[[up.mean - up.low], [up.high - up.mean]],
            color=look.colour,
            elinewidth=0.7,
        )


def fading(points: int) -> list[float]:
    """Return the opacity of each point of a trajectory, rising to 1 at the last."""
    return [1.0 - (1.0 - FAINTEST) * (points - 1 - index) / max(points - 1, 1) for index in range(points)]


def _floor(axes: Any, shown: Sequence[Trajectory]) -> None:
    """Draw and name the entropy that the estimator reports for noise alone."""
    for floor in sorted({trajectory.floor for trajectory in shown if trajectory.floor is not None}):
        axes.axhline(floor, color=NOTE, linestyle=(0, (6, 2)), linewidth=0.8)
        axes.annotate(
            f"noise floor {floor:.1f}".replace("-", "−"),
            xy=(0.985, floor),
            xycoords=("axes fraction", "data"),
            # Below it: latents end above the entropy of their noise.
            xytext=(0, -2),
            textcoords="offset points",
            ha="right",
            va="top",
            color=NOTE,
            fontsize=6.3,
        )


def _legend(found: Sequence[Trajectory], style: dict[Setting, Look]) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    entries: dict[str, Any] = {}
    for setting in sorted((trajectory.setting for trajectory in found), key=order):
        look = style[setting]
        if setting.beta is not None:
            entries.setdefault(f"β = {setting.beta:g}", Line2D([], [], color=look.colour, marker=look.marker))
    names = told_apart(trajectory.setting for trajectory in found)
    for setting in sorted((trajectory.setting for trajectory in found if trajectory.setting.is_baseline), key=order):
        look = style[setting]
        entries[names[setting].label()] = Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes)
    return entries


def _note(found: Sequence[Trajectory], records: Sequence[StudyRecord]) -> str:
    epochs = sorted({epoch for trajectory in found for epoch in trajectory.epochs})
    listed = (
        ", ".join(map(str, epochs)) if len(epochs) <= 8 else f"{len(epochs)} epochs from {epochs[0]} to {epochs[-1]}"
    )
    measured = [record for record in records if record.quantity == "entropy" and record.epoch is not None]
    images = sorted({record.num_images for record in measured if record.num_images is not None})
    parts = [f"from faint to full: epoch {listed}" if len(epochs) > 1 else f"epoch {listed}"]
    if images:
        parts.append(f"n = {' to '.join(f'{count:,}' for count in dict.fromkeys((images[0], images[-1])))} test images")
    if mean := averaged_over([point.cells for trajectory in found for point in trajectory.entropy], measured):
        parts.append(f"{mean}, whiskers at the last epoch: smallest to largest")
    if any(trajectory.floor is not None for trajectory in found):
        parts.append("noise floor: the estimate for the noise alone, whose true entropy is 0")
    return "; ".join(parts)
