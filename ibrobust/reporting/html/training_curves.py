"""The training curves of a report: the terms of a loss against the epoch, as an inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ibrobust.reporting.html.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

MOST_TICKS = 6


@dataclass(frozen=True)
class TrainingCurves:
    """The ticks, as (place, label), and for each term its name and its path."""

    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[tuple[str, str], ...]


def training_curves(epochs: Sequence[Mapping[str, float]]) -> TrainingCurves | None:
    """Return the curves of a training, with the terms of each epoch by name; None for fewer than two epochs."""
    values = [value for terms in epochs for value in terms.values() if math.isfinite(value)]
    if len(epochs) < 2 or not values:
        return None
    across = _ticks(1, len(epochs), whole=True)
    up = _ticks(min(values), max(values))
    low, high = min(up[0], *values), max(up[-1], *values)

    def x(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / (len(epochs) - 1), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low or 1.0), 1)

    lines = []
    for name in dict.fromkeys(name for terms in epochs for name in terms):
        points = [(epoch, terms[name]) for epoch, terms in enumerate(epochs, start=1) if name in terms]
        places = [f"{x(epoch)} {y(value)}" for epoch, value in points if math.isfinite(value)]
        lines.append((name, "M" + "L".join(places) if places else ""))
    return TrainingCurves(
        tuple((x(tick), f"{tick:g}") for tick in across), tuple((y(tick), f"{tick:g}") for tick in up), tuple(lines)
    )


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return a few round numbers from `low` to `high`; at least one."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / MOST_TICKS))
    step = next(step for n in (1, 2, 5, 10, 20) if span / (step := n * power) <= MOST_TICKS)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)] or [low]
