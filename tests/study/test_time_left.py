"""The time that a whole study still takes, by hand from what its cells say."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from ibrobust.study.state import CellState
from ibrobust.study.time_left import seconds_left

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def at(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).isoformat()


def running(elapsed: float, left: float | None) -> CellState:
    return CellState("a", "running", seconds_left=left, started=at(elapsed))


def done(seconds: float) -> CellState:
    return CellState("b", "done", started=at(5000 + seconds), updated=at(5000))


WAITING = CellState("c")


def test_before_a_cell_is_done_the_others_take_as_long_as_the_one_that_runs():
    assert seconds_left([running(100, 300), WAITING, WAITING], now=NOW) == 300 + 2 * 400


def test_cells_that_are_done_tell_how_long_a_cell_takes_with_its_measurements():
    assert seconds_left([done(400), done(600), running(100, 50), WAITING], now=NOW) == 400 + 500


def test_cells_that_run_side_by_side_share_what_waits():
    states = [running(100, 300), running(100, 300), WAITING, WAITING]
    assert seconds_left(states, now=NOW) == (300 + 300 + 2 * 400) / 2


def test_the_last_cells_take_as_long_as_the_longest_of_them():
    assert seconds_left([running(0, 10), running(0, 400)], now=NOW) == 400


def test_a_time_that_is_not_known_is_not_made_up():
    assert seconds_left([running(3, None), WAITING], now=NOW) is None
    assert seconds_left([WAITING], now=NOW) is None
    assert seconds_left([done(5), CellState("d", "failed")], now=NOW) is None
