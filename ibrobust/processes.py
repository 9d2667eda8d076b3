"""One training in several processes: the number of this process, and points at which they wait for each other.

With one process everything here does nothing. torch is imported where it is needed, so that asking `is_main` is cheap.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

# The environment variables of the launchers (torchrun and accelerate, mpich, Open MPI): a process's number and their
# count.
RANK_VARIABLES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
COUNT_VARIABLES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")

# The others wait while the main process fits decoders and scores, longer than a collective may take. If a process dies,
# the launcher ends the others.
LONGEST_WAIT = timedelta(hours=12)

_waiting_group: Any = None


def is_main() -> bool:
    """Return whether this is the main process, which writes files and prints."""
    # Worker pods have a number also where no launcher has started several processes.
    return _from_environment(COUNT_VARIABLES, 1) == 1 or _from_environment(RANK_VARIABLES, 0) == 0


def join(*, cpu: bool) -> None:
    """Connect to the other processes of this launch, if any, on the CPU or on the device that accelerate finds."""
    global _waiting_group
    if _waiting_group is None and _from_environment(COUNT_VARIABLES, 1) > 1:
        from accelerate.state import PartialState
        from torch import distributed

        PartialState(cpu=cpu)
        _waiting_group = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def leave() -> None:
    """Disconnect from the other processes at the end of a program."""
    global _waiting_group
    if count() > 1:
        from torch import distributed

        _waiting_group = None
        distributed.destroy_process_group()


def count() -> int:
    """Return the number of connected processes."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def wait() -> None:
    """Wait until all processes have called this."""
    if count() > 1:
        from torch import distributed

        distributed.barrier(group=_waiting_group)


@contextmanager
def main_first() -> Iterator[None]:
    """Run a block in the main process first, then in the others, which find its files on the disk."""
    if not is_main():
        wait()
    try:
        yield
    finally:
        if is_main():
            wait()


def _from_environment(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)
