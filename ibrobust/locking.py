"""Locks between processes. A lock ends with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout

from ibrobust.errors import IbrobustError

SECONDS_TO_WAIT = 1.0
SECONDS_BETWEEN_ATTEMPTS = 0.05

# The error codes of a file system without locks.
NO_LOCKS_HERE = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def locked(path: Path, refusal: str, *, seconds: float = SECONDS_TO_WAIT) -> Iterator[None]:
    """Hold the lock file at `path`; afterwards remove it, and its folder if that is empty.

    Args:
        path: of the file.
        refusal: the error message if another process keeps it.
        seconds: how long to wait for it.

    Raises:
        IbrobustError: another process holds it, or the file cannot be made.
    """
    # Asking whether a file is locked holds the lock for an instant.
    until = time.monotonic() + seconds
    while (release := _take(path)) is None:
        if time.monotonic() >= until:
            raise IbrobustError(refusal)
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    try:
        yield
    finally:
        release()
        with suppress(OSError):  # a folder with anything else in it stays
            path.parent.rmdir()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`. Two processes that ask do not see each other."""
    try:
        with path.open() as file:
            return not _flock(file.fileno(), shared=True)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in NO_LOCKS_HERE:
            raise
    if not _marker(path).exists():
        return False
    release = _take_marker(path)
    if release is not None:
        release()
    return release is None


def _take(path: Path) -> Callable[[], None] | None:
    """Take the lock and return a function that releases it; None if another process has it or removed its file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _take_file(path)
    except OSError as error:
        if error.errno in NO_LOCKS_HERE:
            return _take_marker(path)
        raise IbrobustError(
            f"The lock {str(path)!r} cannot be created ({error.strerror}): choose a folder that can be written."
        ) from error


def _take_file(path: Path) -> Callable[[], None] | None:
    try:
        file = path.open("a")
    except FileNotFoundError:  # its folder was empty and was removed
        return None
    try:
        if _flock(file.fileno(), shared=False) and os.path.samestat(os.fstat(file.fileno()), path.stat()):

            def release() -> None:
                with suppress(OSError):
                    path.unlink(missing_ok=True)  # while it is held, so that a waiting process sees that it is gone
                file.close()

            return release
    except FileNotFoundError:
        pass
    except OSError:
        file.close()
        path.unlink(missing_ok=True)
        raise
    file.close()
    return None


def _take_marker(path: Path) -> Callable[[], None] | None:
    """Do the same on a file system without locks: a file names its process and counts until that process ends.

    If a process was killed on another machine, its marker has to be removed by hand.
    """
    marker = SoftFileLock(_marker(path), timeout=0)
    for _ in range(2):  # the first attempt may only remove the file of a killed process
        with suppress(Timeout):
            marker.acquire()
            return marker.release
    return None


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _flock(descriptor: int, *, shared: bool) -> bool:
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise OSError(errno.ENOSYS, "no flock") from error
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
