"""The records of a study: a CSV file with one number per row."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, FiniteFloat, TypeAdapter, ValidationError

from ibrobust.errors import IbrobustError

# The number of today's way to audit. Raise it when the same model may get another verdict: an audit in a card that has
# a lower number, or none, is shown as an older one until it is made again.
AUDIT_VERSION = 14
# The earliest version with the same answers as today's, if the robustness was decided.
SAME_AUDIT = 7
# The same of the worst-case attack. Raise it when the attack may break other images: a study measures them anew, and a
# run that was interrupted does not resume.
WORST_CASE_VERSION = 11
# The earliest version that breaks the same images as today's, if no gradient is NaN, infinite, misleading or cut.
SAME_WORST_CASE = 2
# Attacks that search long. A worst case over others alone says little.
THOROUGH = ("AutoAttack", "WorstCase")
FEWEST_STEPS = 20  # with fewer steps AutoAttack is no thorough attack
# The objective of a model from elsewhere, of which nothing is known; its name is in `setting`.
UNKNOWN = "unknown"
WORST_CASE_OF = "worst case of "  # begins the label of a worst case over attacks


def is_older_audit(audit: Mapping[str, Any]) -> bool:
    """Return whether an audit, as a card or a study holds it, was made by older rules than today's."""
    version, undecided = int(audit.get("audit_version", 0)), str(audit.get("verdict")).startswith("undecided")
    return version < SAME_AUDIT or (version < AUDIT_VERSION and undecided)


def is_older_attack(result: Mapping[str, Any]) -> bool:
    """Return whether a result is of an earlier version of the worst-case attack, and of nothing stronger.

    Images with a NaN gradient used to count as broken, without a warning of most attacks.
    """
    names = [name for name, _ in _attacks_of(str(result["attack"]))]
    has_nan, version = bool(result.get("nonfinite_gradient")), int(result.get("attack_version", 1))
    if "WorstCase" in names and "AutoAttack" not in names:
        return version < SAME_WORST_CASE or (version < WORST_CASE_VERSION and has_nan)
    return has_nan and not result.get("upper_bound") and version < WORST_CASE_VERSION


def is_thorough(attack: str) -> bool:
    """Return whether an attack searches long, or one of those that a worst case is over."""
    return any(name in THOROUGH and not _is_cut_short(options) for name, options in _attacks_of(attack))


def _attacks_of(label: str) -> list[tuple[str, str]]:
    """Return the name and the options of an attack, or of each that a worst case is over."""
    labels = label.removeprefix(WORST_CASE_OF).split(", ")
    return [(name, options) for name, _, options in (each.partition(":") for each in labels)]


def _is_cut_short(options: str) -> bool:
    steps = re.search(r"\bn_iter=(\d+)", options)
    return steps is not None and int(steps[1]) < FEWEST_STEPS


def _none_if_empty(text: str | None) -> str | None:
    if text is None:
        raise ValueError("the line is too short")
    return text or None


def _truth(text: str | None) -> str | None:
    text = _none_if_empty(text)
    return text and text.removesuffix(".0")  # pandas writes a column of truths with gaps as 1.0 and 0.0


Name = Annotated[str, Field(min_length=1)]
Number = Annotated[FiniteFloat | None, BeforeValidator(_none_if_empty)]
Whole = Annotated[int | None, BeforeValidator(_none_if_empty)]  # also 8.0, as pandas writes one with gaps
Truth = Annotated[bool | None, BeforeValidator(_truth)]


@dataclass(frozen=True)
class StudyRecord:
    """One number of one cell. None, or an empty string, means not applicable.

    Attributes:
        study: name of the study.
        cell: name of the cell.
        model: name of its model in the registry.
        objective: of the training.
        beta: weight of the bottleneck term; None for an objective without one.
        noise: whether zero-entropy noise was added in training.
        dropout: rate in front of the head.
        dropconnect: rate of the head.
        width: of the encoder.
        seed: of the training.
        epochs: of the training.
        setting: in words, any other difference from the study's other cells, except for the seed.
        decoder: used for the measurement.
        epoch: of an information-plane snapshot, taken after it.
        attack: by name.
        epsilon: in [0, 1] pixel scale.
        quantity: name of the measured quantity.
        value: the number; accuracies and shares in [0, 1], information in nats.
        num_images: used for the measurement.
        verdict: both answers of an audit, such as "not real, misleading".
        norm: of epsilon: Linf, L2, L1 or L0. Not every attack has it in its name.
        upper_bound: True if a warning says that other attacks may break more images.
    """

    study: str
    cell: Name
    model: str
    objective: Name
    beta: Number
    noise: Truth
    dropout: Number
    dropconnect: Number
    width: Whole
    seed: Whole
    epochs: Whole
    setting: str
    decoder: str
    epoch: Whole
    attack: str
    epsilon: Number
    quantity: Name
    value: float  # a loss may be NaN
    num_images: Whole
    verdict: str
    norm: str = ""
    upper_bound: Truth = None


COLUMNS = tuple(field.name for field in fields(StudyRecord))
_READER = TypeAdapter(StudyRecord)


def read_study_records(path: Path) -> tuple[StudyRecord, ...]:
    """Return the records in a CSV file, in its order; unknown columns are ignored.

    Raises:
        IbrobustError: the file cannot be read, lacks a column, or holds a value that does not fit its column.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise IbrobustError(
                    f"The records {str(path)!r} have no column {missing[0]!r}: collect them again from the study."
                )
            return tuple(_record(row, path, reader.line_num) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise IbrobustError(f"The records {str(path)!r} cannot be read: {' '.join(str(error).split())}.") from error


def _record(row: dict[str, Any], path: Path, line: int) -> StudyRecord:
    try:
        return _READER.validate_python(row)
    except ValidationError as error:
        fault = error.errors()[0]
        raise IbrobustError(
            f"Line {line} of the records {str(path)!r} has {fault['input']!r} for {fault['loc'][0]}: correct it or "
            "collect them again."
        ) from None
