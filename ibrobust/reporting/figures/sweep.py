"""The matplotlib figure of `ibrobust attack`: accuracy against epsilon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibrobust.atomic import atomic_path
from ibrobust.errors import IbrobustError
from ibrobust.reporting.tables import AttackRow, SweepRow
from ibrobust.reporting.unattacked import UNATTACKED_SHARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, suitable for colour-blind readers; black is for cross-entropy, as in the paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MOST_INSIDE = 5  # lines whose legend fits into the axes

FORMATS = ("png", "pdf", "svg")


def figure_format(path: Path) -> str:
    """Return the format of a figure from its file name; raise IbrobustError unless it is png, pdf or svg."""
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise IbrobustError(f"The figure {str(path)!r} has an unknown format: end its name in .png, .pdf or .svg.")
    return ending


@dataclass(frozen=True)
class _Line:
    """One line: accuracies in [0, 1] at epsilons, 0 among them."""

    label: str
    points: dict[float, float]
    colour: str
    marker: str
    dashes: Any = "-"


def save_sweep_figure(rows: Sequence[SweepRow], path: Path, *, dataset: str) -> None:
    """Draw accuracy under FGSM against epsilon, one line per model (figure 1 of the paper).

    If FGSM could not attack some images of a model, its line is dotted and the legend gives their share.

    Args:
        rows: at least one sweep.
        path: of the file; the ending of its name, png, pdf or svg, is the format.
        dataset: name for the title.

    Raises:
        IbrobustError: the name has another ending.
    """
    figure_format(path)
    lines = []
    for row, (colour, marker) in zip(rows, _looks([row.is_baseline for row in rows]), strict=True):
        result = row.result
        unattacked = result.zero_gradient_share + result.nonfinite_gradient_share
        label = f"{row.model} ({row.decoder})"
        if unattacked > UNATTACKED_SHARE:
            label += f", {unattacked:.0%} not attacked"
        points = {0.0: result.clean_accuracy, **dict(zip(result.epsilons, result.accuracy, strict=True))}
        lines.append(_Line(label, points, colour, marker, ":" if unattacked > UNATTACKED_SHARE else "-"))
    title = f"{dataset}, n = {rows[0].result.total:,}"
    _save(_figure({"Linf": lines}, title=title, ylabel="accuracy under FGSM (%)"), path)


def save_attack_figure(rows: Sequence[AttackRow], path: Path, *, dataset: str) -> None:
    """Write `attack_figure` to a file, whose ending, png, pdf or svg, is the format.

    Raises:
        IbrobustError: the name has another ending.
    """
    _save(attack_figure(rows, dataset=dataset), path)


def attack_figure(rows: Sequence[AttackRow], *, dataset: str) -> Figure:
    """Return a figure of robust accuracy against epsilon: a colour per model, a style per attack, a panel per norm.

    Args:
        rows: at least one.
        dataset: name for the title.
    """
    attacks = list(dict.fromkeys(result.attack for row in rows for result in row.results))
    panels: dict[str, list[_Line]] = {}
    for row, (colour, _) in zip(rows, _looks([row.is_baseline for row in rows]), strict=True):
        for result in (*row.results, *row.worst):
            is_worst = result.attack not in attacks
            place = len(attacks) if is_worst else attacks.index(result.attack)
            what = "worst case" if is_worst else result.attack
            label = f"{row.model} ({row.decoder}), {what}"
            lines = panels.setdefault(result.norm, [])
            line = next((line for line in lines if line.label == label), None)
            if line is None:
                dashes = DASHES[place % len(DASHES)]
                line = _Line(label, {0.0: result.clean_accuracy}, colour, MARKERS[place % len(MARKERS)], dashes)
                lines.append(line)
            line.points[result.epsilon] = result.robust_accuracy
    title = f"{dataset}, n = {rows[0].results[0].total:,}"
    return _figure(panels, title=title, ylabel="robust accuracy (%)")


def _looks(baselines: Sequence[bool]) -> list[tuple[str, str]]:
    """Return a colour and a marker for each model, black for baselines."""
    found = []
    coloured = 0
    for is_baseline in baselines:
        if is_baseline:
            found.append(("black", "x"))
        else:
            found.append((PALETTE[coloured % len(PALETTE)], MARKERS[coloured % len(MARKERS)]))
            coloured += 1
    return found


def _save(figure: Figure, path: Path) -> None:
    kind = figure_format(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=160)


def _figure(panels: Mapping[str, Sequence[_Line]], *, title: str, ylabel: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global state, no window, no backend to choose.
    most = max(map(len, panels.values()))
    figure = Figure(figsize=(6.4 * len(panels), 4.2 + (0.18 * most if most > MOST_INSIDE else 0)), layout="constrained")
    all_axes = FigureCanvasAgg(figure).figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (norm, lines) in zip(all_axes, panels.items(), strict=True):
        largest = max(epsilon for line in lines for epsilon in line.points)
        scale = 255 if norm == "Linf" else 1
        for line in lines:
            points = sorted(line.points.items())
            axes.plot(
                [scale * epsilon for epsilon, _ in points],
                [100 * accuracy for _, accuracy in points],
                linestyle=line.dashes,
                color=line.colour,
                marker=line.marker,
                label=line.label,
                clip_on=False,
            )
        axes.set_xlabel("ε (of 255)" if scale == 255 else f"ε ({norm})")
        axes.set_xlim(0, 1.02 * scale * largest if largest else 1)
        axes.set_ylim(0, 100)
        axes.set_title(title if len(panels) == 1 else f"{title}, {norm}")
        axes.grid(alpha=0.3)
        # Below the axes where it would hide the lines.
        below = {"loc": "upper left", "bbox_to_anchor": (0, -0.14)} if most > MOST_INSIDE else {}
        axes.legend(fontsize=8, **below)
    all_axes[0].set_ylabel(ylabel)
    return figure
