"""The matplotlib figure of FGSM sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ibrobust.atomic import atomic_path
from ibrobust.errors import IbrobustError
from ibrobust.reporting.tables import SweepRow
from ibrobust.reporting.unattacked import UNATTACKED_SHARE

# Okabe and Ito's palette, suitable for colour-blind readers; black is for cross-entropy, as in the paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"

FORMATS = ("png", "pdf", "svg")


def figure_format(path: Path) -> str:
    """Return the format of a figure from its file name; raise IbrobustError unless it is png, pdf or svg."""
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise IbrobustError(f"The figure {str(path)!r} has an unknown format: end its name in .png, .pdf or .svg.")
    return ending


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
    kind = figure_format(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global state, no window, no backend to choose.
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots()
    coloured = 0
    for row in rows:
        result = row.result
        unattacked = result.zero_gradient_share + result.nonfinite_gradient_share
        points = sorted(
            {0.0: result.clean_accuracy, **dict(zip(result.epsilons, result.accuracy, strict=True))}.items()
        )
        label = f"{row.model} ({row.decoder})"
        if unattacked > UNATTACKED_SHARE:
            label += f", {unattacked:.0%} not attacked"
        if row.is_baseline:
            colour, marker = "black", "x"
        else:
            colour, marker = PALETTE[coloured % len(PALETTE)], MARKERS[coloured % len(MARKERS)]
            coloured += 1
        axes.plot(
            [255 * epsilon for epsilon, _ in points],
            [100 * accuracy for _, accuracy in points],
            ":" if unattacked > UNATTACKED_SHARE else "-",
            color=colour,
            marker=marker,
            label=label,
        )
    axes.set_xlabel("ε (of 255)")
    axes.set_ylabel("accuracy under FGSM (%)")
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.set_title(f"{dataset}, n = {rows[0].result.total:,}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=160)
