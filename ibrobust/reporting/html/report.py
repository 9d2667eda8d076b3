"""The report of a study or of all models: one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ibrobust.atomic import write_text
from ibrobust.epsilon import format_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.records import StudyRecord, read_study_records
from ibrobust.reporting.html.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, epsilon_charts
from ibrobust.reporting.html.leaderboard import leaderboard
from ibrobust.reporting.html.summary import summary
from ibrobust.reporting.html.training_curves import training_curves
from ibrobust.reporting.marks import BOUND, DAGGER, UNATTACKED_SHARE, in_per_cent
from ibrobust.verdicts import read_verdict

MOST_CHARTS = 6  # more are folded away
TEMPLATES = Path(__file__).parent / "templates"
MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
CAPTIONS = {
    "fgsm": "Accuracy under FGSM against epsilon",
    "attacks": "Accuracy under stronger attacks",
    "information_plane": "Information plane on the test set: H[Z] against I[X;Y|Z]",
    "generalization": "Generalisation error (test error) against beta",
}


def write_report(
    *,
    title: str,
    records: Path,
    figures: Sequence[Path],
    cells: Sequence[Mapping[str, Any]],
    out: Path,
    made: str = "",
    home: str = "",
    unit: str = "cell",
) -> Path:
    """Write the report of a study, or of all models, to `out`, as one self-contained HTML file; return `out`.

    Args:
        title: of the study.
        records: its records.csv.
        figures: PNG and SVG files, in the order they appear. Of two that differ only in their ending, the SVG is shown.
        cells: of the study, each a mapping with `name`, `status` (such as done or failed), and if known `error`,
            `dataset`, `recipe` (field to value), `usual` (its default settings, in the words of the records: the
            leaderboard and the charts leave them out), `versions` (package to version), `hardware`, `training` (terms
            of each epoch) and `examples` (see `ibrobust.study.examples`).
        out: path of the file.
        made: the date, and the command that makes the report.
        home: address of a page that the report belongs to, for a link.
        unit: what the report is about: cells, or models.

    Raises:
        IbrobustError: the records or a figure cannot be read, or a cell has no name or status.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    known = read_study_records(records)
    shown = [_cell(cell, known) for cell in cells]
    told = _with_short_settings(known, cells)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        title=title,
        summary=summary(known, shown, unit=unit),
        unit=unit,
        made=made,
        home=home,
        board=leaderboard(told, {cell["name"]: cell["dataset"] for cell in shown}),
        records=base64.b64encode(records.read_bytes()).decode() if known else "",
        charts=epsilon_charts(told),
        most_charts=MOST_CHARTS,
        frame={"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM, "size": (WIDTH, HEIGHT)},
        figures=[_figure(path) for path in _preferred(figures)],
        cells=shown,
        failed=[cell for cell in shown if cell["status"] == "failed"],
        environments=_environments(shown),
        dagger=DAGGER,
        bound=BOUND,
        unattacked=f"{UNATTACKED_SHARE:.0%}",
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # The browser runs only this script, even if a name or an error contains one.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(out, html)
    return out


def _with_short_settings(records: Sequence[StudyRecord], cells: Sequence[Mapping[str, Any]]) -> tuple[StudyRecord, ...]:
    """Return the records with what is unusual of their cell's setting, and with k of the estimator if it is."""
    known = {cell["name"]: cell for cell in cells if cell.get("usual")}
    short = {}
    for setting, name in {(record.setting, record.cell) for record in records if record.cell in known}:
        usual, neighbors = known[name]["usual"], (known[name].get("recipe") or {}).get("num_neighbors")
        parts = [f"num neighbors {neighbors}" if neighbors else "", *setting.split(", ")]
        unusual = dict.fromkeys(part for part in parts if part and part not in usual)
        short[setting, name] = ", ".join(unusual).replace("num neighbors ", "k = ")
    return tuple(
        replace(record, setting=short.get((record.setting, record.cell), record.setting)) for record in records
    )


def _cell(cell: Mapping[str, Any], records: Sequence[StudyRecord]) -> dict[str, Any]:
    """Return a cell with all keys for the template."""
    name, status = cell.get("name"), cell.get("status")
    if not name or not status:
        raise IbrobustError(f"A cell of the report has the name {name!r} and the status {status!r}: both are needed.")
    return {
        "name": str(name),
        "status": str(status),
        "error": str(cell.get("error") or ""),
        "dataset": str(cell.get("dataset") or ""),
        "curves": training_curves(cell.get("training") or ()),
        "examples": _examples(cell.get("examples")),
        "recipe": {
            str(key): format_epsilon(value) if key == "epsilon" and isinstance(value, float) else _plain(value)
            for key, value in (cell.get("recipe") or {}).items()
        },
        "versions": {str(key): str(of) for key, of in (cell.get("versions") or {}).items() if of != "not installed"},
        "hardware": str(cell.get("hardware") or ""),
        "numbers": [_number(record) for record in records if record.cell == name],
    }


def _examples(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the adversarial images of a cell with a caption per column."""
    if not found:
        return None
    columns = zip(found["labels"], found["predicted"], found["attacked"], strict=True)
    return {
        "images": found.get("images", "test images"),
        "attack": found["attack"],
        "epsilon": format_epsilon(found["epsilon"]),
        "source": f"data:image/png;base64,{found['image']}",
        "columns": [
            {"label": label, "predicted": before, "attacked": after, "is_broken": before == label != after}
            for label, before, after in columns
        ],
    }


def _number(record: StudyRecord) -> dict[str, str]:
    is_share = record.quantity.endswith(("accuracy", "_share"))
    return {
        "quantity": record.quantity.replace("_", " "),
        "decoder": record.decoder.replace("_", " "),
        "attack": record.attack,
        "epsilon": "" if record.epsilon is None else format_epsilon(record.epsilon, norm=record.norm or "Linf"),
        "epoch": "" if record.epoch is None else str(record.epoch),
        "value": f"{in_per_cent(record.value, is_bound=bool(record.upper_bound), digits=2)}%"
        if is_share
        else f"{record.value:.4g}",
        "images": "" if record.num_images is None else f"{record.num_images:,}",
        "verdict": verdict.text if (verdict := read_verdict(record.verdict)) else "",
    }


def _plain(value: Any) -> str:
    """Return a recipe's value as in YAML: true, null, [a, b]."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _preferred(figures: Sequence[Path]) -> list[Path]:
    vector = {path.with_suffix("") for path in figures if path.suffix == ".svg"}
    return [path for path in figures if path.suffix == ".svg" or path.with_suffix("") not in vector]


def _figure(path: Path) -> dict[str, str]:
    if path.suffix not in MEDIA_TYPES:
        raise IbrobustError(f"The figure {str(path)!r} is neither PNG nor SVG: draw it as one of them.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IbrobustError(f"The figure {str(path)!r} cannot be read: {error.strerror}.") from error
    # As an image, not as markup: a browser does not run scripts inside an image.
    data = base64.b64encode(content).decode()
    return {
        "name": path.stem,
        "caption": CAPTIONS.get(path.stem, path.stem.replace("_", " ")),
        "source": f"data:{MEDIA_TYPES[path.suffix]};base64,{data}",
    }


def _environments(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the different sets of versions and hardware, each with the names of its cells."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cell in cells:
        if cell["versions"] or cell["hardware"]:
            key = (tuple(sorted(cell["versions"].items())), cell["hardware"])
            entry = {"versions": cell["versions"], "hardware": cell["hardware"], "cells": []}
            found.setdefault(key, entry)["cells"].append(cell["name"])
    return list(found.values())
