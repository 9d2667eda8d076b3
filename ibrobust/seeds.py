"""Independent seeds for every part of a run, from the one that the user gives."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *stream: str | int) -> int:
    """Return a seed in [0, 2^63) that depends on `seed` and on every part of `stream`, and on nothing else.

    A resumed run reaches the same seeds as an uninterrupted one because they come from the epoch's number and not
    from what was drawn before.
    """
    digest = hashlib.sha256(repr((seed, *stream)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
