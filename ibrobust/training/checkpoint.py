"""Checkpoints of a run: one folder per epoch, which exists only if it is complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ibrobust.atomic import atomic_folder, remove_folder
from ibrobust.errors import IbrobustError

_FOLDER = re.compile(r"epoch-(\d+)")


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder`, or None if it has none."""
    found = _checkpoints(folder)
    return found[-1] if found else None


@contextmanager
def new_checkpoint(folder: Path, epochs_done: int) -> Iterator[Path]:
    """Yield a folder for the state after `epochs_done` epochs; on success it replaces the older checkpoints.

    Raises:
        IbrobustError: it cannot be written; the older ones are kept.
    """
    target = folder / f"epoch-{epochs_done:05d}"
    remove_folder(target)
    try:
        with atomic_folder(target) as temporary:
            yield temporary
    # A full disk is an OSError, a SafetensorError or a RuntimeError of torch, by who writes.
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        again = "resume with `resume=True`" if _checkpoints(folder) else "train again"
        raise IbrobustError(
            f"The checkpoint {str(target)!r} cannot be written ({reason}): free space on that disk, then {again}."
        ) from error
    for older in _checkpoints(folder):
        if older != target:
            with suppress(IbrobustError):  # the newest one counts
                remove_folder(older)


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if _FOLDER.fullmatch(entry.name))
