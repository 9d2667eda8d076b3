"""Figure 3: generalisation error against beta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ibrobust.errors import IbrobustError
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.series import Point, make_point
from ibrobust.reporting.figures.settings import (
    HEAD,
    Setting,
    averaged_over,
    decoder_name,
    fits,
    order,
    setting_of,
    told_apart,
    variant_names,
    variant_of,
)
from ibrobust.reporting.figures.style import (
    DOTTED,
    LIGHTEST,
    NOTE,
    baseline_colour,
    grid_of_axes,
    legend_below,
    lighter,
    name_panels,
    save,
    study_style,
)

# Okabe and Ito's palette, suitable for colour-blind readers.
DECODER_LOOKS = {"gaussian_mixture": ("#0072B2", "o"), "resfc": ("#D55E00", "s"), "logistic": ("#009E73", "^")}
OTHER_LOOK = ("#CC79A7", "D")
BASELINE_DASHES = ((0, (5, 2)), (0, (5, 2, 1, 2)), (0, (2, 2)), (0, (8, 2, 1, 2, 1, 2)))


def generalization_errors(records: Sequence[StudyRecord]) -> dict[tuple[Setting, str], Point]:
    """Return the test error, 1 - test accuracy, for each setting and decoder, over its cells; `x` is beta, or NaN.

    This is the paper's generalisation error: it calls an accuracy of 92% an error of 8%. It is not the difference
    between test and training error.
    """
    values: dict[tuple[Setting, str], list[float]] = {}
    for record in records:
        if record.quantity == "test_accuracy":
            values.setdefault((setting_of(record), record.decoder), []).append(1.0 - record.value)
    return {
        (setting, decoder): make_point(math.nan if setting.beta is None else setting.beta, errors)
        for (setting, decoder), errors in values.items()
    }


def draw_generalization(records: Sequence[StudyRecord], out: Path) -> list[Path]:
    """Draw test error against beta, one line per decoder, dotted without noise; baselines are dashed horizontal lines.

    Raises:
        IbrobustError: there are no records of the test accuracy of a model with a beta.
    """
    errors = generalization_errors(records)
    variants = variant_names(setting for setting, _ in errors)
    if not variants:
        raise IbrobustError(
            "The generalization figure needs records of the test accuracy of a model with a beta: add "
            "cells of a bottleneck objective to the study."
        )
    betas = sorted({setting.beta for setting, _ in errors if setting.beta is not None})
    at = beta_places(betas)
    with study_style() as new:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        entries: dict[str, Any] = {}
        figure, places = grid_of_axes(new, len(variants))
        if len(variants) > 1:
            name_panels(places, [", ".join(words) for words in variants.values()])
        for place, variant in zip(places, variants, strict=True):
            axes = place.axes
            _draw_bottlenecks(axes, errors, variant, at, entries)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g}"))
            axes.set_xticks([at[beta] for beta in betas], [f"{beta:g}" for beta in betas])
            axes.set_xlim(min(at.values()) - 0.15, max(at.values()) + 0.15)
            if place.left:
                axes.set_ylabel("generalisation error:\n1 − test accuracy (%)")
            if place.bottom:
                axes.set_xlabel("β (logarithmic, 0 apart)" if 0.0 in at and len(at) > 1 else "β (logarithmic)")
        baselines = _baselines(errors)
        settings, names = [setting for setting, _ in baselines], told_apart(setting for setting, _ in errors)
        entries |= _noise_entries(errors)
        beside = [{key for key in baselines if fits(key[0], variant, settings)} for variant in variants]
        elsewhere = set(baselines).difference(*beside)  # beside no models of its own epochs: in all panels
        for place, fitting in zip(places, beside, strict=True):
            _draw_baselines(place.axes, baselines, fitting | elsewhere, names, entries)
        # The margin that matplotlib leaves is a share of the values' range, but the axis starts at 0.
        highest = max(place.axes.dataLim.ymax for place in places)
        for place in places:
            place.axes.set_ylim(0, 1.06 * highest or 1.0)
        legend_below(figure, entries, _note(records))
        return save(figure, out, "generalization")


def beta_places(betas: Sequence[float]) -> dict[float, float]:
    """Return the position of each beta on the axis: its logarithm to base 10, and 0 a little below the smallest."""
    positive = [math.log10(beta) for beta in betas if beta > 0]
    lowest = min(positive, default=0.0)
    gap = max(0.3, 0.12 * (max(positive, default=0.0) - lowest))
    return {beta: math.log10(beta) if beta > 0 else lowest - gap for beta in betas}


def _draw_bottlenecks(
    axes: Any,
    errors: dict[tuple[Setting, str], Point],
    variant: Setting,
    at: dict[float, float],
    entries: dict[str, Any],
) -> None:
    from matplotlib.lines import Line2D

    lines: dict[tuple[str, bool | None], list[Point]] = {}
    for (setting, decoder), point in sorted(errors.items(), key=lambda item: order(item[0][0])):
        if not setting.is_baseline and variant_of(setting) == variant:
            lines.setdefault((decoder, setting.noise), []).append(point)
    decoders = _shown({decoder for decoder, _ in lines})
    for (decoder, noise), points in lines.items():
        if decoder not in decoders:
            continue
        colour, marker = DECODER_LOOKS.get(decoder, OTHER_LOOK)
        dashes = DOTTED if noise is False else "-"
        axes.errorbar(
            [at[point.x] for point in points],
            [point.mean for point in points],
            yerr=[[point.mean - point.low for point in points], [point.high - point.mean for point in points]],
            color=colour,
            marker=marker,
            # Without noise also hollow: a dotted line is hard to distinguish from a solid one between near points.
            markerfacecolor="white" if noise is False else colour,
            linestyle=dashes,
            elinewidth=0.8,
            capsize=1.5,
        )
        entries.setdefault(decoder_name(decoder), Line2D([], [], color=colour, marker=marker))


def _noise_entries(errors: dict[tuple[Setting, str], Point]) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    noises = {setting.noise for setting, _ in errors if not setting.is_baseline}
    entries = {
        True: ("with noise", Line2D([], [], color=NOTE, marker="o")),
        False: ("without noise", Line2D([], [], color=NOTE, marker="o", markerfacecolor="white", linestyle=DOTTED)),
    }
    return {label: entry for noise, (label, entry) in entries.items() if noise in noises}


def _shown(decoders: set[str]) -> set[str]:
    """Return the decoders to draw: the paper's two, or all decoders if those are missing."""
    return decoders & {"gaussian_mixture", "resfc"} or decoders


def _baselines(errors: dict[tuple[Setting, str], Point]) -> dict[tuple[Setting, str], Point]:
    """Return the baselines' errors with their trained head, or with every decoder if they have none."""
    baselines = {key: point for key, point in errors.items() if key[0].is_baseline}
    with_head = {setting for setting, decoder in baselines if decoder == HEAD}
    chosen = {key: point for key, point in baselines.items() if key[1] == HEAD or key[0] not in with_head}
    return dict(sorted(chosen.items(), key=lambda item: (order(item[0][0]), item[0][1])))


def _draw_baselines(
    axes: Any,
    baselines: dict[tuple[Setting, str], Point],
    shown: set[tuple[Setting, str]],
    names: dict[Setting, Setting],
    entries: dict[str, Any],
) -> None:
    """Draw those of the figure's baselines that a panel shows; no two look alike, as all share one legend."""
    from matplotlib.lines import Line2D

    most = max((len(baselines) - 1) // len(BASELINE_DASHES), 1)
    for index, ((setting, decoder), point) in enumerate(baselines.items()):
        if (setting, decoder) not in shown:
            continue
        again, place = divmod(index, len(BASELINE_DASHES))
        dashes, colour = BASELINE_DASHES[place], lighter(baseline_colour(setting), LIGHTEST * again / most)
        axes.axhline(point.mean, color=colour, linestyle=dashes, linewidth=1.0)
        if point.cells > 1:
            axes.axhspan(point.low, point.high, color=colour, alpha=0.1, linewidth=0)
        label = replace(names[setting], decoder=decoder).label()
        entries[label] = Line2D([], [], color=colour, linestyle=dashes, linewidth=1.0)


def _note(records: Sequence[StudyRecord]) -> str:
    measured = [record for record in records if record.quantity == "test_accuracy"]
    images = sorted({record.num_images for record in measured if record.num_images is not None})
    parts = ["decoders are fitted to training images and scored on test images"]
    if images:
        parts[0] += f", n = {' to '.join(f'{count:,}' for count in dict.fromkeys((images[0], images[-1])))}"
    errors = generalization_errors(records)
    # A decoder that was fitted to one cell alone has no mean, whichever other cells there are of its setting.
    averaged = [record for record in measured if errors[setting_of(record), record.decoder].cells > 1]
    if mean := averaged_over([point.cells for point in errors.values()], averaged):
        parts.append(f"{mean}; whiskers and bands: smallest to largest")
    return "; ".join(parts)
