"""Acting on a study while a launcher runs it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ibrobust.study import Study, expand
from ibrobust.study.state import CellState, read_state

PATIENCE = 240.0
SECONDS_BETWEEN_LOOKS = 0.2


@contextmanager
def meanwhile(condition: Callable[[], bool], action: Callable[[], None]) -> Iterator[None]:
    """Do something once, in another thread, when a condition first holds; fail where it never did."""
    done = threading.Event()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            if condition():
                action()
                done.set()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert done.is_set(), "what the test waited for did not happen"


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "what the test waited for did not happen"
        time.sleep(SECONDS_BETWEEN_LOOKS)


def states(study: Study) -> list[CellState]:
    return [read_state(study, cell.name) for cell in expand(study)]


def statuses(study: Study) -> list[str]:
    return [state.status for state in states(study)]


def process_of(study: Study, index: int) -> int:
    """Return the process number of a cell that is running."""
    return int(states(study)[index].process.rpartition(":")[2])


def is_alive(process: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z" and process != os.getpid()
