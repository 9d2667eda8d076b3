"""Results as a JSON file for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibrobust.atomic import write_json
from ibrobust.evaluation.attacks.result import AttackResult

if TYPE_CHECKING:
    from ibrobust.evaluation.audit.report import AuditReport
    from ibrobust.reporting.attack_lines import AttackedModel


def write_attacked(
    path: Path,
    models: Sequence[AttackedModel],
    *,
    data_name: str,
    fingerprint: str,
    split: str | None = None,
    resize: int | None = None,
) -> None:
    """Write one object to `path`: the data set, and a list of sweeps or of attacks with their results per image."""
    content: dict[str, Any] = {"dataset": _dataset(data_name, fingerprint, split, resize)}
    for model in models:
        for result in (*model.results, *model.worst):
            kind = "attacks" if isinstance(result, AttackResult) else "sweeps"
            record = {"model": model.model, "decoder": model.decoder, **result.to_dict()}
            content.setdefault(kind, []).append(record)
    write_json(path, content)


def write_audits(
    path: Path,
    reports: Mapping[str, AuditReport],
    *,
    model: str,
    data_name: str,
    fingerprint: str,
    split: str | None = None,
    resize: int | None = None,
) -> None:
    """Write one object with the data set and a model's audit reports, by decoder, to `path`."""
    content = {
        "dataset": _dataset(data_name, fingerprint, split, resize),
        "model": model,
        "audits": {decoder: report.to_dict() for decoder, report in reports.items()},
    }
    write_json(path, content)


def write_entropies(
    path: Path,
    records: Mapping[str, Mapping[str, Any]],
    *,
    data_name: str,
    fingerprint: str,
    split: str | None = None,
    resize: int | None = None,
) -> None:
    """Write one object with the data set and one record per model to `path`."""
    write_json(path, {"dataset": _dataset(data_name, fingerprint, split, resize), "models": dict(records)})


def _dataset(name: str, fingerprint: str, split: str | None, resize: int | None) -> dict[str, object]:
    chosen = {} if split is None else {"split": split}  # instead of the test images
    scaled = {} if resize is None else {"resized_to": resize}  # inside the model, pixels a side
    return {"name": name, "fingerprint": fingerprint, **chosen, **scaled}
