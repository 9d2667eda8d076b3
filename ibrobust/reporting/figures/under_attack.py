"""The figure of `ibrobust attack`: accuracy against epsilon, the same for every attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibrobust.atomic import atomic_path
from ibrobust.errors import IbrobustError
from ibrobust.readable import percent
from ibrobust.reporting.attack_lines import AttackLine
from ibrobust.reporting.figures.style import BASELINE, LIGHTEST, PLAIN_TEXT, add_legend, lighter
from ibrobust.reporting.marks import BOUND

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, suitable for colour-blind readers, then Tol's muted one.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MORE_COLOURS = ("#332288", "#999933", "#882255", "#117733", "#CC6677", "#88CCEE", "#AA4499", "#44AA99", "#DDCC77")
MARKERS = "osD^vP"
# For cross-entropy, which is black, as in the paper, or grey.
BASELINE_MARKERS = "x+*1234"
DASHES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1, 4, 1)))
# If FGSM could not attack some images, whatever the attack's own style.
UNATTACKED_DASHES = ":"
MOST_INSIDE = 5  # lines whose legend fits into the axes
MOST_LETTERS = 42  # of a label, of which two fit beside each other below the axes

FORMATS = ("png", "pdf", "svg")


def figure_format(path: Path) -> str:
    """Return the format of a figure from its file name; raise IbrobustError unless it is png, pdf or svg."""
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise IbrobustError(f"The figure {str(path)!r} has an unknown format: end its name in .png, .pdf or .svg.")
    return ending


def save_attack_figure(lines: Sequence[AttackLine], path: Path, *, dataset: str) -> None:
    """Write `attack_figure` to a file, whose ending, png, pdf or svg, is the format.

    Raises:
        IbrobustError: the name has another ending.
    """
    kind = figure_format(path)
    figure = attack_figure(lines, dataset=dataset)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=160)


def attack_figure(lines: Sequence[AttackLine], *, dataset: str) -> Figure:
    """Return a figure of accuracy against epsilon: a colour per model, a style per attack, a panel per norm.

    If FGSM could not attack some images of a model, its line is dotted and the legend gives their share.

    Args:
        lines: at least one.
        dataset: name for the title.
    """
    from matplotlib import rc_context

    models = _looks({line.model: line.known.is_baseline for line in lines})
    attacks = list(dict.fromkeys(line.attack for line in lines))
    panels: dict[str, list[tuple[AttackLine, dict[str, Any]]]] = {}  # the lines of each norm, with their style
    for line in lines:
        colour, marker = models[line.model]
        place = attacks.index(line.attack)
        label = line.model
        if len(attacks) > 1:
            marker, label = MARKERS[place % len(MARKERS)], f"{label}, {line.attack}"
        if line.is_marked:
            label += f", {percent(line.unattacked)} not attacked"
        dashes = UNATTACKED_DASHES if line.is_marked else DASHES[place % len(DASHES)]
        if any(map(line.accuracy.get, line.upper_bounds)):  # nothing is below 0
            label += f", {BOUND} upper bound"
        style = {"label": label, "color": colour, "marker": marker, "linestyle": dashes}
        panels.setdefault(line.norm, []).append((line, style))
    under = attacks[0] if len(attacks) == 1 else "attack"
    with rc_context(PLAIN_TEXT):
        return _figure(panels, title=f"{dataset}, n = {lines[0].total:,}", ylabel=f"accuracy under {under} (%)")


def _looks(models: Mapping[str, bool]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each model, given with whether it is a baseline; no two have one colour."""
    found: dict[str, tuple[str, str]] = {}
    for is_baseline in (True, False):
        colours = (BASELINE,) if is_baseline else PALETTE + MORE_COLOURS
        markers = BASELINE_MARKERS if is_baseline else MARKERS
        names = [model for model, baseline in models.items() if baseline == is_baseline]
        most = max((len(names) - 1) // len(colours), 1)
        for number, model in enumerate(names):
            again, place = divmod(number, len(colours))
            colour = lighter(colours[place], LIGHTEST * again / most)
            found[model] = (colour, markers[(place + again) % len(markers)])
    return found


def _figure(panels: Mapping[str, Sequence[tuple[AttackLine, dict[str, Any]]]], *, title: str, ylabel: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global state, no window, no backend to choose.
    most = max(map(len, panels.values()))
    longest = max(len(style["label"]) for lines in panels.values() for _, style in lines)
    is_below = most > MOST_INSIDE
    columns = 2 if is_below and longest <= MOST_LETTERS else 1
    height = 4.2 + (0.18 * -(-most // columns) if is_below else 0)
    figure = Figure(figsize=(6.4 * len(panels), height), layout="constrained")
    all_axes = FigureCanvasAgg(figure).figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (norm, lines) in zip(all_axes, panels.items(), strict=True):
        largest = max(epsilon for line, _ in lines for epsilon in line.accuracy)
        scale = 255 if norm == "Linf" else 1
        drawn = []
        for line, style in lines:
            points = {scale * at: 100 * share for at, share in sorted({0.0: line.clean, **line.accuracy}.items())}
            drawn += axes.plot(list(points), list(points.values()), **style, clip_on=False)
            for at in (scale * epsilon for epsilon in line.upper_bounds):
                if points[at]:
                    axes.annotate(
                        BOUND, (at, points[at]), (0, 3), textcoords="offset points", ha="center", color=style["color"]
                    )
        axes.set_xlabel("ε × 255" if scale == 255 else f"ε ({norm})")
        axes.set_xlim(0, 1.02 * scale * largest if largest else 1)
        axes.set_ylim(0, 100)
        axes.set_title(title if len(panels) == 1 else f"{title}, {norm}")
        axes.grid(alpha=0.3)
        # Below the axes where it would hide the lines.
        below = {"loc": "upper left", "bbox_to_anchor": (0, -0.14), "ncols": columns} if is_below else {}
        names = [style["label"] for _, style in lines]
        add_legend(axes, names, drawn, fontsize=8, handlelength=3.5, **below)
    all_axes[0].set_ylabel(ylabel)
    return figure
