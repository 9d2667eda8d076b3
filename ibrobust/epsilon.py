"""Perturbation sizes as people write them: 8/255 or 0.0314."""

from __future__ import annotations

from ibrobust.errors import IbrobustError


def parse_epsilon(text: str) -> float:
    """Return the epsilon in [0, 1] pixel scale that `text` writes as a decimal or a fraction.

    Raises:
        IbrobustError: the text is not a number, or the number is outside [0, 1].
    """
    numerator, slash, denominator = text.strip().partition("/")
    try:
        value = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise IbrobustError(f"The epsilon {text!r} is not a number: write 0.03 or 8/255.") from None
    return check_epsilon(value)


def read_epsilon(value: object) -> float:
    """Return the epsilon that a file gives, as a number or as text; raise IbrobustError where it is neither."""
    if isinstance(value, str):
        return parse_epsilon(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return check_epsilon(value)
    raise IbrobustError(f"The epsilon {value!r} is not a number: write 0.03 or 8/255.")


def check_epsilon(value: float) -> float:
    """Return `value` as a float; raise IbrobustError unless it is in [0, 1], NaN included."""
    number = float(value)
    if not 0.0 <= number <= 1.0:  # NaN fails as well
        hint = " (did you mean a fraction of 255?)" if 1.0 < number <= 255.0 else ""
        raise IbrobustError(f"The epsilon {number:g} is outside [0, 1], the scale of the pixels{hint}: write 8/255.")
    return number


def format_epsilon(value: float) -> str:
    """Return an epsilon as n/255 where n is a whole number, else as the decimal with n/255 rounded."""
    steps = 255.0 * value
    whole = round(steps)
    return f"{whole}/255" if abs(steps - whole) < 1e-6 else f"{value:g} ({steps:.1f}/255)"
