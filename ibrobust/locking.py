"""Locks between processes. One goes with the process that holds it, however that ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ibrobust.errors import IbrobustError

ATTEMPTS = 20
SECONDS_BETWEEN_ATTEMPTS = 0.05


@contextmanager
def locked(path: Path, refusal: str, *, seconds: float = ATTEMPTS * SECONDS_BETWEEN_ATTEMPTS) -> Iterator[None]:
    """Hold the lock file at `path`, made where it is not there; it is never removed, since others may wait for it.

    Args:
        path: of the file.
        refusal: what is said where another process keeps it.
        seconds: how long to wait for it.

    Raises:
        IbrobustError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        # Who asks whether a file is locked holds the lock for an instant.
        until = time.monotonic() + seconds
        while not (taken := _take(file.fileno(), shared=False)) and time.monotonic() < until:
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
        if not taken:
            raise IbrobustError(refusal)
        yield


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`. Two that ask do not see each other."""
    if not path.is_file():
        return False
    with path.open("a") as file:
        return not _take(file.fileno(), shared=True)


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
