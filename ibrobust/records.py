"""The records of a study: a CSV file with one number per row."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ibrobust.errors import IbrobustError

# The number of today's way to audit. Raise it when the same model may get another verdict: an audit in a card that has
# a lower number, or none, is shown as an older one until it is made again.
AUDIT_VERSION = 3

Value = TypeVar("Value")


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
        verdict: of an audit.
    """

    study: str
    cell: str
    model: str
    objective: str
    beta: float | None
    noise: bool | None
    dropout: float | None
    dropconnect: float | None
    width: int | None
    seed: int | None
    epochs: int | None
    setting: str
    decoder: str
    epoch: int | None
    attack: str
    epsilon: float | None
    quantity: str
    value: float
    num_images: int | None
    verdict: str


COLUMNS = tuple(field.name for field in fields(StudyRecord))


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
    def read(name: str, convert: Callable[[str], Value]) -> Value:
        text = row[name]
        try:
            if text is None:  # the line is too short
                raise ValueError
            return convert(text)
        except ValueError:
            raise IbrobustError(
                f"Line {line} of the records {str(path)!r} has {text!r} for {name}: correct it or collect them again."
            ) from None

    return StudyRecord(
        study=read("study", str),
        cell=read("cell", _name),
        model=read("model", str),
        objective=read("objective", _name),
        beta=read("beta", _optional(_finite)),
        noise=read("noise", _optional(_truth)),
        dropout=read("dropout", _optional(_finite)),
        dropconnect=read("dropconnect", _optional(_finite)),
        width=read("width", _optional(_whole)),
        seed=read("seed", _optional(_seed)),
        epochs=read("epochs", _optional(_whole)),
        setting=read("setting", str),
        decoder=read("decoder", str),
        epoch=read("epoch", _optional(_whole)),
        attack=read("attack", str),
        epsilon=read("epsilon", _optional(_finite)),
        quantity=read("quantity", _name),
        value=read("value", float),  # a loss may be NaN
        num_images=read("num_images", _optional(_whole)),
        verdict=read("verdict", str),
    )


def _name(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _whole(text: str) -> int:
    # pandas writes a column of whole numbers with gaps as 8.0.
    number = _finite(text)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _seed(text: str) -> int:
    # A seed may have 63 bits, more than a float holds.
    return int(text) if text.lstrip("-").isdigit() else _whole(text)


def _truth(text: str) -> bool:
    truths = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    if text.lower() not in truths:
        raise ValueError
    return truths[text.lower()]


def _optional(convert: Callable[[str], Value]) -> Callable[[str], Value | None]:
    return lambda text: None if text == "" else convert(text)
