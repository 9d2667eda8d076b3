"""The line of a training: what stays visible at 80 columns, and what is said of the time once it is known."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ibrobust.training.progress import TrainingProgress, in_words
from ibrobust.training.recipe import Recipe
from ibrobust.training.trainer import Progress

NAME = "knn_ib-beta0.03-cifar10-w64-s0"
TERMS = {"loss": -12.345, "soft H[Z|Y]": 110.348, "soft H[Z]": 131.441}


def state(step: int, *, epoch: int = 1, device: str = "cpu") -> Progress:
    return Progress(epoch, 20, step, 400, TERMS, 31.5, 3 * 3600 + 20 * 60 + 11, device)


def told(states: list[Progress], times: list[float], recipe: Recipe | None = None) -> str:
    """Return what a log without a terminal says of these states, each at its time."""
    console = Console(file=io.StringIO(), width=80)
    clock = iter(times)
    with TrainingProgress(console, "m", recipe=recipe, clock=lambda: next(clock)) as progress:
        for each in states:
            progress.update(each)
    return console.file.getvalue()


@pytest.mark.parametrize("name", [NAME, NAME + "-and-a-name-that-is-longer-than-any-line-has-room-for"])
def test_name_bar_epoch_and_time_left_are_visible_at_80_columns(name):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with TrainingProgress(console, name) as progress:
        progress.update(state(200, epoch=10))
    line = [line for line in console.file.getvalue().replace("\r", "\n").splitlines() if "━" in line][-1]
    assert name[:25] in line
    assert "epoch 10/20  3:20:11 left" in line


def test_the_time_of_the_whole_is_told_once_from_the_steps_after_the_first():
    # The first 20 steps took 100 s, the next 20 took 2 s: 8,000 steps take 800 s.
    text = told([state(20), state(40), state(60)], [100.0, 102.0])
    assert text == "m: about 13 minutes for the whole training on this device (cpu).\n"


def test_few_steps_are_enough_where_they_take_long():
    assert told([state(1), state(2)], [0.0, 1.0]) == ""
    assert told([state(1), state(2), state(3)], [0.0, 6.0, 12.0]).startswith("m: about 13 hours for the whole")


def test_over_an_hour_on_a_cpu_what_is_faster_is_told():
    text = told([state(20), state(40)], [0.0, 20.0], Recipe())
    assert "about 2 hours" in text
    assert "Faster: preset knn_w16, width 16, fewer epochs (now 20), or a GPU." in text


@pytest.mark.parametrize(
    ("times", "recipe", "device", "said"),
    [
        ([0.0, 2.0], Recipe(), "cpu", None),
        ([0.0, 20.0], Recipe(), "cuda", None),
        ([0.0, 20.0], Recipe(width=16), "cpu", "Faster: fewer epochs (now 20), or a GPU."),
        (
            [0.0, 20.0],
            Recipe(objective="cross_entropy"),
            "cpu",
            "Faster: width 16, fewer epochs (now 20), or a GPU.",
        ),
    ],
)
def test_only_what_would_be_faster_is_offered_and_only_where_it_matters(times, recipe, device, said):
    text = told([state(20, device=device), state(40, device=device)], times, recipe)
    assert (said in text) if said else ("Faster" not in text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 1 second"),
        (40.4, "about 40 seconds"),
        (700, "about 12 minutes"),
        (9000, "about 2 hours"),
        (400_000, "about 5 days"),
    ],
)
def test_a_time_in_words(seconds, words):
    assert in_words(seconds) == words
