"""The live line of a training: its progress, its remaining time, and faster settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from ibrobust.live_line import NotebookBar
from ibrobust.training.recipe import Recipe

if TYPE_CHECKING:
    from ibrobust.training.trainer import Progress as TrainingState

# Always visible in 80 columns: name, bar, epoch and remaining time. The rest uses the remaining width.
NAME_COLUMNS = 36
BAR_COLUMNS = 8

LONG_SECONDS = 3600.0
# For an estimate of the training's time.
ENOUGH_STEPS, ENOUGH_SECONDS = 20, 10.0


class TrainingProgress:
    """Shows name, epoch, remaining time and loss terms. Without a terminal or notebook, one line per epoch.

    After the first steps it prints once the expected training time on this device and, if that is over an hour on a
    CPU, faster settings.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        *,
        recipe: Recipe | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._console = console
        self._title = title
        self._recipe = recipe
        self._clock = clock
        self._first: tuple[float, int] | None = None  # the time of the first steps, and their number
        self._told = False
        self._bar = Progress(
            TextColumn("{task.description}", table_column=_column(max_width=NAME_COLUMNS), markup=False),
            BarColumn(bar_width=BAR_COLUMNS),
            TextColumn("{task.fields[left]}", table_column=_column(), markup=False),
            TextColumn("{task.fields[state]}", table_column=_column(ratio=1), markup=False),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._task: TaskID = self._bar.add_task(title, total=1, state="", left="")
        self._notebook: NotebookBar | None = None

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        self._notebook = NotebookBar() if self._console.is_jupyter else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._notebook:
            self._notebook.close()

    def stage(self, text: str) -> None:
        """Report a step other than training."""
        if self._notebook:
            self._notebook.show(f"{self._title}: {text}", 0, 1)
        elif self._console.is_terminal:
            self._bar.update(self._task, left="", state=text)
        else:
            self._print(f"{self._title}: {text}")

    def update(self, state: TrainingState) -> None:
        """Show the state of a training."""
        self._estimate(state)
        terms = "  ".join(f"{name} {value:.3f}" for name, value in state.terms.items())
        left = f"epoch {state.epoch}/{state.epochs}  {timedelta(seconds=round(state.seconds_left))} left"
        rest = f"{terms}  {state.images_per_second:,.0f} images/s"
        total = state.epochs * state.steps
        if self._notebook:
            self._notebook.show(f"{self._title}: {left}  {rest}", _steps_done(state), total)
        elif self._console.is_terminal:
            self._bar.update(self._task, total=total, completed=_steps_done(state), left=left, state=rest)
        elif state.step == state.steps:
            self._print(f"{self._title}: {left}  {rest}")

    def _estimate(self, state: TrainingState) -> None:
        if self._told:
            return
        now, done = self._clock(), _steps_done(state)
        if self._first is None:  # these steps were slower: memory was allocated, kernels were chosen or compiled
            self._first = now, done
            return
        began, before = self._first
        if done - before < ENOUGH_STEPS and now - began < ENOUGH_SECONDS:
            return
        self._told = True
        steps = state.epochs * state.steps
        seconds = (now - began) / max(done - before, 1) * steps
        self._print(f"{self._title}: {in_words(seconds)} for the whole training on this device ({state.device}).")
        if self._recipe is not None and seconds > LONG_SECONDS and state.device == "cpu":
            self._print(f"Faster: {', '.join(_what_is_faster(self._recipe))}, or a GPU.")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def in_words(seconds: float) -> str:
    """Return a time in words: about 40 seconds, about 12 minutes, about 3 hours, about 2 days."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.0f} {unit}s"
    return f"about {max(seconds, 1):.0f} second{'s' if round(max(seconds, 1)) != 1 else ''}"


def _what_is_faster(recipe: Recipe) -> list[str]:
    best = Recipe.preset("knn_w16")
    ways = []
    if recipe.width > best.width:
        if recipe.objective == best.objective:
            ways.append("preset knn_w16")
        ways.append(f"width {best.width}")
    return [*ways, f"fewer epochs (now {recipe.epochs})"]


def _steps_done(state: TrainingState) -> int:
    return (state.epoch - 1) * state.steps + state.step


def _column(*, max_width: int | None = None, ratio: int | None = None) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", max_width=max_width, ratio=ratio)
