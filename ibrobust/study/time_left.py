"""The remaining time of a study, from the times of its cells so far."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from statistics import fmean

from ibrobust.study.state import CellState


def seconds_left(states: Sequence[CellState], *, now: datetime | None = None) -> float | None:
    """Return the seconds until every cell is finished, or None if there is not enough data yet.

    A waiting cell is expected to take the average time of the finished ones, including evaluation; if none is finished,
    the training time of the running ones. The number of cells that run at once is expected to stay the same.
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
