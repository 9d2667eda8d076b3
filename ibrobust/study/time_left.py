"""How long a whole study will still take, from what its cells have taken so far."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from statistics import fmean

from ibrobust.study.state import CellState


def seconds_left(states: Sequence[CellState], *, now: datetime | None = None) -> float | None:
    """Return the seconds until every cell is done, or None where no cell has taken long enough to tell.

    A cell that waits is taken to need as long as those that are done needed on average, measurements included; while
    there is none, as long as the training of those that run. As many cells as run now are taken to run side by side.
    """
    now = now or datetime.now(timezone.utc)
    running = [state for state in states if state.status == "running"]
    waiting = sum(state.status in ("waiting", "interrupted") for state in states)
    if not running:
        return None
    needed = [_seconds(state.started, state.updated) for state in states if state.status == "done" and state.started]
    known = [_elapsed(state, now) + state.seconds_left for state in running if state.seconds_left is not None]
    if not (needed or known):
        return None
    whole = fmean(needed or known)
    rest = [max(whole - _elapsed(state, now), state.seconds_left or 0.0) for state in running]
    return max(max(rest), (sum(rest) + waiting * whole) / len(running))


def _elapsed(state: CellState, now: datetime) -> float:
    return (now - datetime.fromisoformat(state.started)).total_seconds()


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
