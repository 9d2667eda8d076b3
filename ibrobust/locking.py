"""Locks between processes. One goes with the process that holds it, however that ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from ibrobust.errors import IbrobustError

SECONDS_TO_WAIT = 1.0
SECONDS_BETWEEN_ATTEMPTS = 0.05


@contextmanager
def locked(path: Path, refusal: str, *, seconds: float = SECONDS_TO_WAIT) -> Iterator[None]:
    """Hold the lock file at `path`; afterwards neither it nor a folder that was made for it alone is left.

    Args:
        path: of the file.
        refusal: what is said where another process keeps it.
        seconds: how long to wait for it.

    Raises:
        IbrobustError: another process holds it.
    """
    # Who asks whether a file is locked holds the lock for an instant.
    until = time.monotonic() + seconds
    while (file := _take_file(path)) is None:
        if time.monotonic() >= until:
            raise IbrobustError(refusal)
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    with file:
        try:
            yield
        finally:
            with suppress(OSError):  # a folder with anything else in it stays
                path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone
                path.parent.rmdir()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`. Two that ask do not see each other."""
    try:
        with path.open() as file:
            return not _take(file.fileno(), shared=True)
    except FileNotFoundError:
        return False


def _take_file(path: Path) -> TextIO | None:
    """Return the lock file, open and held; None where another process has it, or removed it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("a")
    except FileNotFoundError:  # its folder was empty and went
        return None
    try:
        if _take(file.fileno(), shared=False) and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except FileNotFoundError:
        pass
    file.close()
    return None


def _take(descriptor: int, *, shared: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows, where nothing is locked
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
