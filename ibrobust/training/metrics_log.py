"""The metrics of a run as JSON lines, one per epoch, written while it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ibrobust.atomic import write_text

_NOT_TERMS = {"epoch", "learning_rate", "images_per_second", "seconds"}


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines; an incomplete last line, after a kill, is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def terms_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the terms of an epoch, in nats, among them its loss."""
    return {name: value for name, value in record.items() if name not in _NOT_TERMS}


def keep_epochs(path: Path, epochs: int) -> None:
    """Drop the lines of epochs after `epochs`; a resumed run writes them again."""
    if path.is_file():
        kept = [record for record in read_records(path) if record["epoch"] <= epochs]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
