"""A live line on stderr: where a training or an evaluation is, and how long it will take."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

if TYPE_CHECKING:
    from ibrobust.training.trainer import Progress as TrainingState


class TrainingProgress:
    """Shows epoch, loss terms, images a second and the time left. Without a terminal, a line an epoch."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task(title, total=1, state="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        """Say what else than training is being done."""
        if self._console.is_terminal:
            self._bar.update(self._task, state=text)
        else:
            self._console.print(f"{self._title}: {text}", markup=False, highlight=False, soft_wrap=True)

    def update(self, state: TrainingState) -> None:
        """Show the state of a training."""
        terms = "  ".join(f"{name} {value:.3f}" for name, value in state.terms.items())
        left = timedelta(seconds=round(state.seconds_left))
        text = f"epoch {state.epoch}/{state.epochs}  {terms}  {state.images_per_second:,.0f} images/s  {left} left"
        if self._console.is_terminal:
            total = state.epochs * state.steps
            done = (state.epoch - 1) * state.steps + state.step
            self._bar.update(self._task, total=total, completed=done, state=text)
        elif state.step == state.steps:
            self._console.print(f"{self._title}: {text}", markup=False, highlight=False, soft_wrap=True)
