"""The size of a perturbation, and the check of every attack's result."""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.epsilon import format_epsilon
from ibrobust.errors import IbrobustError

# The most that is tolerated beyond epsilon, at any epsilon.
TOLERANCE = {"Linf": 1e-6, "L2": 1e-4, "L1": 1e-2, "L0": 1e-6}
_SHARE = 1e-3  # of epsilon, in L2 and L1
# float32 keeps pixels in [0, 1] to 6e-8: the rounding of x + delta, and of the subtraction that gives delta back.
_PIXEL = 6e-8


def tolerance(norm: str, epsilon: float, pixels: int) -> float:
    """Return how far beyond epsilon a result may be, in that norm.

    In L2 and L1 the roundings of all pixels add up, to 2e-5 and 9e-3 for images of 3 x 224 x 224. For a tiny epsilon
    even these would be a large part of the radius, so no more than a thousandth of it is tolerated, unless rounding
    itself may be larger: it is at most `_PIXEL` in each of the image's values, whatever epsilon is.

    Args:
        norm: Linf, L2, L1, or L0 as the share of pixels changed.
        epsilon: radius in that norm.
        pixels: C * H * W, the values of an image.
    """
    most = TOLERANCE[norm]
    if norm not in ("L2", "L1"):
        return most
    rounding = _PIXEL * (pixels**0.5 if norm == "L2" else pixels)
    return min(most, max(_SHARE * epsilon, rounding))


def check_result(label: str, adversarial: Tensor, images: Tensor, *, norm: str, epsilon: float) -> None:
    """Raise IbrobustError if an attack's result (B, C, H, W) is outside the ball or [0, 1]: it must not be counted."""
    lost = ~adversarial.flatten(1).isfinite().all(dim=1)
    if bool(lost.any()):
        raise IbrobustError(
            f"{label} gave NaN or infinite pixels for {int(lost.sum())} images: its result is not counted. Leave this "
            "attack out."
        )
    size = perturbation_size(adversarial - images, norm)  # (B,)
    outside = _is_too_large(size, images, norm=norm, epsilon=epsilon)
    if bool(outside.any()):
        what = "pixels by" if norm == "Linf" else f"an image in {norm} by"
        raise IbrobustError(
            f"{label} changed {what} up to {float(size[outside].max()):.6g}, more than epsilon "
            f"{format_epsilon(epsilon, norm=norm)}: clip its result, or leave it out."
        )
    beyond = _is_beyond(adversarial)
    if bool(beyond.any()):
        raise IbrobustError(
            f"{label} gave pixels outside [0, 1] for {int(beyond.sum())} images: its result is not counted. "
            "Leave this attack out."
        )


def is_invalid(adversarial: Tensor, images: Tensor, *, norm: str, epsilon: float) -> Tensor:
    """Return (B,) bool: which results (B, C, H, W) `check_result` would reject."""
    size = perturbation_size(adversarial - images, norm)
    return _is_too_large(size, images, norm=norm, epsilon=epsilon) | _is_beyond(adversarial)


def _is_too_large(size: Tensor, images: Tensor, *, norm: str, epsilon: float) -> Tensor:
    return ~(size <= epsilon + tolerance(norm, epsilon, images[:1].numel()))  # NaN is too large as well


def _is_beyond(adversarial: Tensor) -> Tensor:
    return ~((adversarial >= -1e-6) & (adversarial <= 1 + 1e-6)).flatten(1).all(dim=1)  # NaN is beyond as well


def perturbation_size(delta: Tensor, norm: str) -> Tensor:
    """Return (B,) sizes of perturbations (B, C, H, W): Linf, L2, L1, or L0 as the share of pixels changed."""
    if norm == "L0":
        return (delta != 0).any(dim=1).flatten(1).float().mean(dim=1)
    order = {"Linf": float("inf"), "L2": 2.0, "L1": 1.0}.get(norm)
    if order is None:
        raise IbrobustError(f"Unknown norm {norm!r}: choose Linf, L2 or L1.")
    return torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)
