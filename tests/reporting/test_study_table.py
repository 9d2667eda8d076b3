"""The table of a study's cells, whole and cut to a terminal."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from ibrobust.reporting.progress_table import study_table


@dataclass(frozen=True)
class State:
    cell: str
    status: str
    stage: str = ""
    epoch: int = 0
    epochs: int = 0
    seconds_left: float | None = None
    error: str = ""


STATES = [
    *(State(f"early-{index}", "done", epoch=8, epochs=8) for index in range(6)),
    State("broken", "failed", epoch=3, epochs=8, error="The loss was not finite [in step 3]. " * 9),
    State("busy", "running", "training", 3, 8, 73.4),
    State("cut", "interrupted", "training", 2, 8),
    *(State(f"late-{index}", "waiting") for index in range(6)),
]


@pytest.fixture
def render():
    def render(rows: int | None) -> str:
        console = Console(file=io.StringIO(), width=90)
        console.print(study_table(STATES, title="Mine", rows=rows))
        return console.file.getvalue()

    return render


def test_all_cells_are_shown_in_their_order_with_what_they_do(render):
    text = render(None)
    places = [text.index(state.cell) for state in STATES]
    assert places == sorted(places)
    assert "6 done, 1 running, 1 failed, 1 interrupted, 6 waiting" in text
    (busy,) = [line for line in text.splitlines() if "busy" in line]
    assert all(part in busy for part in ("running", "3/8", "0:01:13", "training"))
    whole = " ".join(text.replace("│", " ").split())
    assert whole.count("finite") == 9, "an error is whole"


def test_a_table_that_is_cut_keeps_to_its_height_and_shows_what_happens(render):
    text = render(4)
    for cell in ("broken", "busy", "cut", "late-0"):
        assert cell in text
    assert "early" not in text
    assert "late-1" not in text
    assert "6 done, 1 running, 1 failed, 1 interrupted, 6 waiting; 4 of 15 shown" in text
    assert len(text.splitlines()) == 4 + 6  # title, three lines of the header, the last border, the caption


def test_a_table_that_fits_says_nothing_of_rows(render):
    assert "shown" not in render(15)


def test_the_time_for_the_whole_study_is_in_the_caption():
    console = Console(file=io.StringIO(), width=90)
    console.print(study_table(STATES, title="Mine", rows=4, seconds_left=3671.2))
    assert "6 waiting; 4 of 15 shown; 1:01:11 left for all" in console.file.getvalue()
