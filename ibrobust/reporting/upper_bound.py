"""How tables, figures and pages mark an accuracy that is an upper bound."""

from __future__ import annotations

BOUND = "≤"


def bound_sign(value: float | None, *, is_bound: bool) -> str:
    """Return the sign before an accuracy that is an upper bound; nothing is below 0, so a bound of 0 is the value."""
    return BOUND if is_bound and value else ""
