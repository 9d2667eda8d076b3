"""Perturbation sizes as people write them: 8/255 or 0.0314."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ibrobust.errors import IbrobustError


def parse_epsilon(text: str) -> float:
    """Return the epsilon, in [0, 1] pixel scale, of a decimal or a fraction.

    Raises:
        IbrobustError: the text is not a number, or the number is outside [0, 1].
    """
    return check_epsilon(_parse_number(text))


def _parse_number(text: str) -> float:
    numerator, slash, denominator = text.strip().partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise IbrobustError(f"The epsilon {text!r} is not a number: write 0.03 or 8/255.") from None


# The type of an argument for epsilons: 8/255, "8/255", or several of them.
Epsilons = float | str | Iterable[float | str]


def read_epsilon(value: object) -> float:
    """Return the epsilon of a file or a caller, given as a number or as text.

    Numbers of NumPy and torch count as well.

    Raises:
        IbrobustError: it is neither, or outside [0, 1].
    """
    return check_epsilon(_read_number(value))


def read_radius(value: object) -> float:
    """Return the radius of a ball in any norm, given in a form that `read_epsilon` accepts.

    Raises:
        IbrobustError: it is not a positive number.
    """
    radius = _read_number(value)
    if not 0 < radius < math.inf:
        raise IbrobustError(f"The epsilon {radius} is not a positive number: give one such as 8/255.")
    return radius


def _read_number(value: object) -> float:
    if isinstance(value, str):
        return _parse_number(value)
    # A NumPy number, or an array or tensor without dimensions. Other values stay as they are and are rejected.
    plain = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    if isinstance(plain, (int, float)) and not isinstance(plain, bool):
        return float(plain)
    raise IbrobustError(f"The epsilon {value!r} is not a number: write 0.03 or 8/255.")


def read_epsilons(values: Epsilons) -> list[float]:
    """Return a list of epsilons from one value or several, in forms that `read_epsilon` accepts.

    Raises:
        IbrobustError: one of them is not an epsilon.
    """
    single = isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "shape", None) == ()
    return [read_epsilon(value) for value in ([values] if single else values)]  # type: ignore[union-attr]


def check_epsilon(value: float) -> float:
    """Return `value` as a float; raise IbrobustError unless it is in [0, 1], NaN included."""
    number = float(value)
    if not 0.0 <= number <= 1.0:  # NaN fails as well
        hint = " (did you mean a fraction of 255?)" if 1.0 < number <= 255.0 else ""
        raise IbrobustError(f"The epsilon {number:g} is outside [0, 1], the scale of the pixels{hint}: write 8/255.")
    return number


def format_epsilon(value: float) -> str:
    """Return an epsilon as n/255 if n is a whole number, else as a decimal with n/255 rounded."""
    steps = 255.0 * value
    whole = round(steps)
    return f"{whole}/255" if abs(steps - whole) < 1e-6 else f"{value:g} ({steps:.1f}/255)"
