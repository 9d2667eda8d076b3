"""How tables, figures and pages mark an accuracy that is an upper bound, or one of images that FGSM did not change."""

from __future__ import annotations

from ibrobust.readable import per_cent

BOUND = "≤"
DAGGER = "†"
# Above this share of images with an exactly zero gradient, the accuracy under FGSM is marked.
UNATTACKED_SHARE = 0.01
NO_SIGN = f"{DAGGER} no sign of robustness: for more than {UNATTACKED_SHARE:.0%} of the images, FGSM changed nothing"


def bound_sign(value: float | None, *, is_bound: bool) -> str:
    """Return the sign before an accuracy that is an upper bound; nothing is below 0, so a bound of 0 is the value."""
    return BOUND if is_bound and value else ""


def in_per_cent(value: float, *, is_bound: bool, digits: int = 1) -> str:
    """Return an accuracy in per cent, with the sign before it and rounded up if it is an upper bound."""
    return f"{bound_sign(value, is_bound=is_bound)}{per_cent(value, digits, is_bound=is_bound)}"
