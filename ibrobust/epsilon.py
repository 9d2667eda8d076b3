"""Perturbation sizes as people write them: 8/255 or 0.0314."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable

from ibrobust.errors import IbrobustError

# Norms in which the distance of two images with pixels in [0, 1] may exceed 1.
LONG_NORMS = ("L2", "L1")
SMALL_IN_L2 = 0.1


def parse_epsilons(text: str, *, norm: str = "Linf") -> list[float]:
    """Return the epsilons of a text, separated by commas.

    Raises:
        IbrobustError: one of them occurs twice, is not a number, or `check_epsilon` rejects it.
    """
    comma = re.fullmatch(r"\s*(\d+),(\d+)\s*", text)
    meant = f"did you mean {comma[1]}.{comma[2]}? A comma separates epsilons." if comma else ""
    if comma and (comma[1] == "0" or comma[2][0] == "0" != comma[2]):  # nobody wants 0 and 5, or writes 03 for 3
        raise IbrobustError(f"The epsilons {text.strip()!r} are not clear: {meant}")
    parts = text.split(",")
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise IbrobustError(f"One of the epsilons {text!r} is empty: remove the comma before or after it.")
    try:
        epsilons = [read_epsilon(part, norm=norm) for part in parts]
    except IbrobustError as error:
        raise IbrobustError(f"{str(error).rstrip('.')}; {meant}") if meant else error from None
    if len(set(epsilons)) < len(epsilons):
        raise IbrobustError(f"An epsilon occurs twice in {text}: give each once.")
    return epsilons


def small_radii(epsilons: Iterable[float], norm: str) -> str | None:
    """Return a note if all radii are those of another norm, by mistake: 8/255 in L2."""
    largest = max(epsilons, default=0.0)
    if norm != "L2" or not 0.0 < largest < SMALL_IN_L2:
        return None
    return f"Note: {format_epsilon(largest, norm=norm)} is very small in L2; usual radii are 0.25 to 1."


def _parse_number(text: str) -> float:
    numerator, slash, denominator = text.strip().partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        one = "give one epsilon, such as" if "," in text else "write"
        raise IbrobustError(f"The epsilon {text!r} is not a number: {one} 0.03 or 8/255.") from None


# The type of an argument for epsilons: 8/255, "8/255", or several of them.
Epsilons = float | str | Iterable[float | str]


def read_epsilon(value: object, *, norm: str = "Linf") -> float:
    """Return an epsilon, in [0, 1] pixel scale, that is given as a number or as text: a decimal or a fraction.

    Numbers of NumPy and torch count as well.

    Raises:
        IbrobustError: it is neither, or `check_epsilon` rejects it.
    """
    return check_epsilon(_read_number(value), norm=norm)


def read_radius(value: object, *, norm: str = "L2") -> float:
    """Return the radius of a ball in a norm, given in a form that `read_epsilon` accepts.

    Raises:
        IbrobustError: it is not a positive number, or `check_epsilon` rejects it.
    """
    radius = _read_number(value)
    if not 0 < radius < math.inf:
        raise IbrobustError(f"The epsilon {radius} is not a positive number: give one such as 8/255.")
    return check_epsilon(radius, norm=norm)


def _read_number(value: object) -> float:
    if isinstance(value, str):
        return _parse_number(value)
    # A NumPy number, or an array or tensor without dimensions. Other values stay as they are and are rejected.
    plain = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    if isinstance(plain, (int, float)) and not isinstance(plain, bool):
        return float(plain)
    raise IbrobustError(f"The epsilon {value!r} is not a number: write 0.03 or 8/255.")


def read_epsilons(values: Epsilons, *, norms: Collection[str] = ("Linf",)) -> list[float]:
    """Return a list of epsilons from one value or several, in forms that `read_epsilon` accepts.

    Raises:
        IbrobustError: one of them is not an epsilon in each of the norms.
    """
    single = isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "shape", None) == ()
    found = [_read_number(value) for value in ([values] if single else values)]  # type: ignore[union-attr]
    for norm in norms:
        for value in found:
            check_epsilon(value, norm=norm)
    return found


def check_epsilon(value: float, *, norm: str = "Linf") -> float:
    """Return `value` as a float; raise IbrobustError unless it is in [0, 1], or not negative in L2 and L1."""
    number = float(value)
    if norm in LONG_NORMS:
        if not 0.0 <= number < math.inf:
            raise IbrobustError(f"The epsilon {number:g} is no radius in {norm}: write 0.5 or 128/255.")
        return number
    if not 0.0 <= number <= 1.0:  # NaN fails as well
        hint = " (did you mean a fraction of 255?)" if 1.0 < number <= 255.0 else ""
        raise IbrobustError(f"The epsilon {number:g} is outside [0, 1], the scale of the pixels{hint}: write 8/255.")
    return number


def format_epsilon(value: float, *, norm: str = "Linf") -> str:
    """Return an epsilon as n/255 if n is a whole number, else as a decimal with n/255 rounded, but not to a whole n.

    In L2 and L1 it is a decimal, or n/255 if that is shorter.
    """
    steps = 255.0 * value
    whole = round(steps)
    if norm in LONG_NORMS:
        is_fraction = abs(steps - whole) < 1e-6 and len(f"{value:.10g}") > len(f"{whole}/255")
        return f"{whole}/255" if is_fraction else f"{value:g}"
    if value and not whole and steps < 1e-6:
        return f"{value:g} ({steps:.1e}/255)"
    if abs(steps - whole) < 1e-6:
        return f"{whole}/255"
    decimals = next(count for count in range(1, 8) if round(steps, count) != whole)
    return f"{value:g} ({steps:.{decimals}f}/255)"
