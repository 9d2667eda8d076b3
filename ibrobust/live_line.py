"""The progress of a long call: a bar on a terminal, a bar in a notebook, or printed lines."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, TypeVar

from rich.console import Console

# A notebook redraws the whole output for each change.
SECONDS_BETWEEN_UPDATES = 0.2
TENTHS = 10  # without a terminal, a line is printed for each tenth of the work

Report = TypeVar("Report", bound=Callable[..., None])


class _Bar(Protocol):
    def show(self, text: str, done: int, total: int | None) -> None: ...

    def close(self) -> None: ...


@contextmanager
def following(
    progress: bool | Report | None, title: str, described: Callable[[LiveLine], Report]
) -> Iterator[Report | None]:
    """Yield the function that a long call reports its progress to, or None.

    Args:
        progress: what the caller of the long call wants: a function of its own; True for a line on standard error; None
            for such a line if somebody looks, in a notebook or on a terminal; False for nothing.
        title: of the line.
        described: makes of a line a function like the caller's own.
    """
    if callable(progress):
        yield progress
        return
    console = Console(stderr=True)
    if not (is_watched(console) if progress is None else progress):
        yield None
        return
    with LiveLine(title, console) as line:
        yield described(line)


def is_watched(console: Console) -> bool:
    """Return whether the console is a notebook or a terminal, and not a file or a pipe."""
    return console.is_jupyter or console.is_terminal


class LiveLine:
    """Shows what is done and how much of it. It appears with the first call of `show`, and is removed at the end."""

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._console = console
        self._bar: _Bar | None = None

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int | None, text: str = "") -> None:
        """Show that `done` of `total` parts are done, None if unknown, and a few words on the present one."""
        if self._bar is None:
            self._bar = _bar(self._console)
        self._bar.show(f"{self._title}: {text}" if text else self._title, done, total)


def _bar(console: Console) -> _Bar:
    if console.is_jupyter:
        return NotebookBar()
    return _TerminalBar(console) if console.is_terminal else _PrintedLines(console)


class _TerminalBar:
    def __init__(self, console: Console) -> None:
        from rich.progress import Progress

        self._progress = Progress(console=console, transient=True)
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def show(self, text: str, done: int, total: int | None) -> None:
        from rich.markup import escape

        self._progress.update(self._task, description=escape(text), completed=done, total=total)

    def close(self) -> None:
        self._progress.stop()


class NotebookBar:
    """A bar in the output of a notebook's cell. It needs no widgets, which not every notebook has."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display(_markup(""), display_id=True, raw=True)
        self._shown = 0.0

    def show(self, text: str, done: int, total: int | None) -> None:
        """Show words, and a bar, without an end if `total` is None."""
        now = time.monotonic()
        if now - self._shown >= SECONDS_BETWEEN_UPDATES or done == total:
            self._shown = now
            share = "" if total is None else f' value="{done}" max="{max(total, 1)}"'
            self._handle.update(_markup(f"<progress{share}></progress> {html.escape(text)}"), raw=True)

    def close(self) -> None:
        """Remove the bar."""
        self._handle.update(_markup(""), raw=True)


def _markup(text: str) -> dict[str, str]:
    return {"text/html": text, "text/plain": ""}


class _PrintedLines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[str, int] | None = None

    def show(self, text: str, done: int, total: int | None) -> None:
        place = (text, 0 if total is None else TENTHS * done // max(total, 1))
        if place != self._last:
            self._last = place
            share = "" if total is None else f", {done} of {total}"
            self._console.print(f"{text}{share}", markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        pass
