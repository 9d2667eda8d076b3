"""Checkpoints of a run: one folder an epoch, there only when it is complete."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ibrobust.atomic import atomic_folder

_FOLDER = re.compile(r"epoch-(\d+)")


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder`, or None where there is none."""
    found = _checkpoints(folder)
    return found[-1] if found else None


@contextmanager
def new_checkpoint(folder: Path, epochs_done: int) -> Iterator[Path]:
    """Yield a folder to write the state after `epochs_done` epochs to; on success it takes the older ones' place."""
    target = folder / f"epoch-{epochs_done:05d}"
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as temporary:
        yield temporary
    for older in _checkpoints(folder):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if _FOLDER.fullmatch(entry.name))
