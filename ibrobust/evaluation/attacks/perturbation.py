"""The size of a perturbation, and the check of every attack's result."""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError

# Rounding in x + delta and back; float32 keeps pixels to 6e-8, and longer norms add up more of it.
TOLERANCE = {"Linf": 1e-6, "L2": 1e-4, "L1": 1e-2, "L0": 1e-6}


def check_result(label: str, adversarial: Tensor, images: Tensor, *, norm: str, epsilon: float) -> None:
    """Raise IbrobustError if an attack's result (B, C, H, W) is outside the ball or [0, 1]: it must not be counted."""
    size = perturbation_size(adversarial - images, norm)  # (B,)
    outside = ~(size <= epsilon + TOLERANCE[norm])  # NaN is outside as well
    if bool(outside.any()):
        raise IbrobustError(
            f"{label} went to {float(size[outside].max()):.6g} in {norm}, beyond epsilon {epsilon:.6g}: "
            "its result is not counted. Leave this attack out."
        )
    beyond = ((adversarial < -1e-6) | (adversarial > 1 + 1e-6)).flatten(1).any(dim=1)
    if bool(beyond.any()):
        raise IbrobustError(
            f"{label} gave pixels outside [0, 1] for {int(beyond.sum())} images: its result is not counted. "
            "Leave this attack out."
        )


def perturbation_size(delta: Tensor, norm: str) -> Tensor:
    """Return (B,) sizes of perturbations (B, C, H, W): Linf, L2, L1, or L0 as the share of pixels changed."""
    if norm == "L0":
        return (delta != 0).any(dim=1).flatten(1).float().mean(dim=1)
    order = {"Linf": float("inf"), "L2": 2.0, "L1": 1.0}.get(norm)
    if order is None:
        raise IbrobustError(f"Unknown norm {norm!r}: choose Linf, L2 or L1.")
    return torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)
