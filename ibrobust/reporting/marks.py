"""How tables, figures and pages mark an accuracy that is an upper bound, or one of images that FGSM did not change."""

from __future__ import annotations

BOUND = "≤"
DAGGER = "†"
# Above this share of images with an exactly zero gradient, the accuracy under FGSM is marked.
UNATTACKED_SHARE = 0.01
NO_SIGN = f"{DAGGER} no sign of robustness: for more than {UNATTACKED_SHARE:.0%} of the images, FGSM changed nothing"


def bound_sign(value: float | None, *, is_bound: bool) -> str:
    """Return the sign before an accuracy that is an upper bound; nothing is below 0, so a bound of 0 is the value."""
    return BOUND if is_bound and value else ""
