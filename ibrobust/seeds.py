"""Independent seeds for every part of a run, derived from the user's seed."""

from __future__ import annotations

import hashlib


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
