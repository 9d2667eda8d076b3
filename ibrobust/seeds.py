"""Independent seeds for every part of a run, derived from the user's seed."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *stream: str | int) -> int:
    """Return a seed in [0, 2^63), determined by `seed` and every part of `stream` alone.

    A resumed run reaches the same seeds as an uninterrupted one because they come from the epoch's number, not from
    earlier draws.
    """
    digest = hashlib.sha256(repr((seed, *stream)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
