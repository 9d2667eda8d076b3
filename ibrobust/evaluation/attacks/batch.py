"""One attack on one batch, and the check of what it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.pgd import nonfinite_gradient
from ibrobust.evaluation.bfloat16.search import SAME_BUT_FOR_ROUNDING, agrees
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.model_state import isolated_rng
from ibrobust.evaluation.predictions import is_correct

if TYPE_CHECKING:
    from ibrobust.evaluation.attacks.attack import Attack

# Rounding in x + delta and back; float32 keeps pixels to 6e-8, and longer norms add up more of it.
TOLERANCE = {"Linf": 1e-6, "L2": 1e-4, "L1": 1e-2, "L0": 1e-6}


def attack_batch(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    epsilon: float,
    seed: int,
    copied: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Return adversarial images (B, C, H, W), and (B,) bool for images with a NaN gradient or result.

    An attack without a radius searches for the smallest perturbation; if that is larger than epsilon, the attack has
    failed and the image is returned unchanged. The random generators are restored afterwards.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) in [0, 1], on the model's device.
        labels: (B,).
        attack: any; see `read_attack` for one by its name.
        epsilon: radius in the attack's norm.
        seed: of everything random.
        copied: the copy for an attack with precision=bf16, see `search_copy`; the model itself by default.

    Raises:
        IbrobustError: the attack's result is outside [0, 1] or the ball: it must not be counted.
    """
    if len(images) == 0:
        return images, torch.zeros(0, dtype=torch.bool, device=images.device)
    model = guard(model)
    with isolated_rng(seed), torch.enable_grad():
        if copied is not None and attack.searches_on_copy:
            adversarial, nonfinite = _drafted(attack, guard(copied), model, images, labels, epsilon=epsilon, seed=seed)
        else:
            adversarial, nonfinite = attack.find(model, images, labels, epsilon=epsilon, seed=seed)
    adversarial = adversarial.detach()
    counted = ~nonfinite
    check_result(attack.label, adversarial[counted], images[counted], norm=attack.norm, epsilon=epsilon)
    return adversarial, nonfinite


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


def _drafted(
    attack: Attack,
    copied: nn.Module,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Attack a copy of the model, then the model itself on images for which only the copy gives a result.

    These are images that break only the copy, unbroken images on which the two disagree, and images with a NaN gradient
    of the copy alone. Only the model's own answer counts, since the caller evaluates it for the classes.
    """
    adversarial, unsure = attack.find(copied, images, labels, epsilon=epsilon, seed=seed)
    # Rounding can hide a NaN gradient.
    nonfinite = nonfinite_gradient(model, images, labels)
    with torch.no_grad():
        unbroken = is_correct(model(adversarial), labels)
        unsure |= unbroken & ~is_correct(copied(adversarial), labels)
    rest = (unbroken & ~unsure).nonzero()[:, 0]
    if len(rest):
        unsure[rest] = ~agrees(copied, model, adversarial[rest], labels[rest], SAME_BUT_FOR_ROUNDING)
    again = unbroken & unsure | ~adversarial.flatten(1).isfinite().all(dim=1)
    if bool(again.any()):
        found, without_gradient = attack.find(model, images[again], labels[again], epsilon=epsilon, seed=seed)
        adversarial[again] = found
        nonfinite[again] |= without_gradient
    return adversarial, nonfinite
