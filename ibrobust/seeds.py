"""The user's seed, and independent seeds for every part of a run, derived from it."""

from __future__ import annotations

import hashlib
from numbers import Integral, Real

from ibrobust.errors import IbrobustError


def derive_seed(seed: int, *stream: str | int) -> int:
    """Return a seed in [0, 2^63), determined by `seed` and every part of `stream` alone.

    A resumed run reaches the same seeds as an uninterrupted one because they come from an epoch's or a batch's number,
    not from earlier draws.

    Examples:
        >>> from ibrobust.seeds import derive_seed
        >>> derive_seed(0, "noise", 1) == derive_seed(0, "noise", 1) != derive_seed(0, "noise", 2)
        True
    """
    digest = hashlib.sha256(repr((seed, *stream)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def evaluation_seed(seed: int, *parts: object) -> int:
    """Return a seed in [0, 2^31), determined by all parts, so that each piece of an evaluation has its own seed.

    It is shorter than that of `derive_seed`, since attacks of other packages pass it to NumPy, which takes 32 bits.
    """
    text = "\x1f".join([str(seed), *(repr(part) for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def check_seed(seed: object) -> int:
    """Return the seed; raise IbrobustError unless torch accepts it."""
    number = whole_number(seed)
    if number is None or not 0 <= number < 2**63:
        raise IbrobustError(f"The seed is {seed}: a whole number from 0 to 2^63 - 1 is needed.")
    return number


def whole_number(value: object) -> int | None:
    """Return `value` as an int if it is whole, such as 3, 3.0 and their NumPy forms; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    return int(float(value)) if isinstance(value, Real) and float(value).is_integer() else None
