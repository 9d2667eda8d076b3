"""Results as a JSON file for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ibrobust.atomic import write_text

if TYPE_CHECKING:
    from ibrobust.evaluation.audit.report import AuditReport
    from ibrobust.reporting.tables import AttackRow, SweepRow


def write_sweeps(
    path: Path, rows: Sequence[SweepRow], *, data_name: str, fingerprint: str, resize: int | None = None
) -> None:
    """Write one object with the data set and a list of sweeps to `path`."""
    content = {
        "dataset": _dataset(data_name, fingerprint, resize),
        "sweeps": [{"model": row.model, "decoder": row.decoder, **row.result.to_dict()} for row in rows],
    }
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_audits(
    path: Path,
    reports: Mapping[str, AuditReport],
    *,
    model: str,
    data_name: str,
    fingerprint: str,
    resize: int | None = None,
) -> None:
    """Write one object with the data set and a model's audit reports, by decoder, to `path`."""
    content = {
        "dataset": _dataset(data_name, fingerprint, resize),
        "model": model,
        "audits": {decoder: report.to_dict() for decoder, report in reports.items()},
    }
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_attacks(
    path: Path, rows: Sequence[AttackRow], *, data_name: str, fingerprint: str, resize: int | None = None
) -> None:
    """Write one object with the data set and every attack's record, image by image, to `path`."""
    content = {
        "dataset": _dataset(data_name, fingerprint, resize),
        "attacks": [
            {"model": row.model, "decoder": row.decoder, **result.to_dict()}
            for row in rows
            for result in (*row.results, *row.worst)
        ],
    }
    write_text(path, json.dumps(content, indent=2) + "\n")


def _dataset(name: str, fingerprint: str, resize: int | None) -> dict[str, object]:
    scaled = {} if resize is None else {"resized_to": resize}  # inside the model, pixels a side
    return {"name": name, "fingerprint": fingerprint, **scaled}
