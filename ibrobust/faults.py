"""What pydantic finds wrong with a value, as one clause that names the value and the remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CLAUSES = {
    "int_parsing": "is not a whole number: write one such as 3",
    "int_type": "is not a whole number: write one such as 3",
    "int_from_float": "is not a whole number: write one such as 3",
    "float_parsing": "is not a number: write one such as 0.03",
    "float_type": "is not a number: write one such as 0.03",
    "finite_number": "is not a finite number: write one such as 0.03",
    "bool_parsing": "is neither true nor false: write one of these",
    "bool_type": "is neither true nor false: write one of these",
    "string_type": "is not a text: write it in quotes",
    "greater_than_equal": "is too small: give at least {ge}",
    "greater_than": "is too small: give more than {gt}",
    "less_than_equal": "is too large: give at most {le}",
    "less_than": "is too large: give less than {lt}",
    "too_short": "is empty: give at least one value",
    "string_too_short": "is empty: give a name",
    "tuple_type": "is not a list: write [VALUE, VALUE]",
    "list_type": "is not a list: write [VALUE, VALUE]",
    "dict_type": "is not a mapping: write FIELD: VALUE",
    "model_type": "is not a mapping: write FIELD: VALUE",
    "missing": "is missing: add it",
}


def clause(fault: Mapping[str, Any], place: str) -> str:
    """Return a clause such as ``epochs = 0 is too small: give at least 1``.

    Args:
        fault: one of the errors of a pydantic.ValidationError.
        place: the value's name; empty for a fault of several values together.
    """
    value = fault["input"]
    is_plain = value is None or isinstance(value, str | int | float)
    subject = f"{place} = {value!r}" if place and is_plain and fault["type"] != "missing" else place
    return f"{subject}{complaint(fault)}".removeprefix(": ")


def complaint(fault: Mapping[str, Any]) -> str:
    """Return the part of a clause that follows the value."""
    value, kind, context = fault["input"], fault["type"], fault.get("ctx", {})
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f" is not known: choose one of {', '.join(choices)}"
    if kind in ("float_parsing", "int_parsing") and (comma := re.fullmatch(r"(-?\d+),(\d+)", value.strip())):
        return f" is not a number: write {comma[1]}.{comma[2]}, with a point"
    if kind in _CLAUSES:
        return f" {_CLAUSES[kind].format(**in_words(context))}"
    message = fault["msg"].removeprefix("Value error, ").rstrip(".")
    return f": {message[0].lower()}{message[1:]}"


def in_words(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return what pydantic says about a fault, with 0.5 for 0.50, and every digit of a whole number."""
    return {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
