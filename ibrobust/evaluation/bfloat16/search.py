"""A rounded copy of a model for the search of attacks: it has to agree with the model and be faster."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Found
from ibrobust.evaluation.attacks.pgd import loss_gradient, nonfinite_gradient
from ibrobust.evaluation.bfloat16.copy import NoCopyError, differentiable_copy
from ibrobust.evaluation.bfloat16.speed import bfloat16_is_fast, is_faster

# On so many of a run's images the copy is compared with the model and timed, and in so large a share it has to agree.
COMPARED_IMAGES = 32
LEAST_AGREEING = 0.875

# The least cosine between the gradients, and the largest difference of a logit relative to the largest logit. Rounding
# to bfloat16 leaves cosines of 0.96 and more in a ResNet18, and differences of 0.01.
SAME_FUNCTION = (0.99, 0.01)
SAME_BUT_FOR_ROUNDING = (0.9, 0.05)


def search_copy(model: nn.Module, images: Tensor, labels: Tensor) -> nn.Module | None:
    """Return a copy of `model` in bfloat16 whose logits and gradients agree with its own; None if it is not faster.

    The model is also compared with the same copy in float32, so that rounding hides no difference: torch.fx follows the
    forward computation, so a straight-through gradient and other backward passes of the model itself are lost.

    Args:
        model: in evaluation mode, with parameters without gradients.
        images: (B, C, H, W) in [0, 1] of the run, on the model's device.
        labels: (B,).

    Raises:
        IbrobustError: the model cannot be copied, or the copy does not agree with it.
    """
    if not bfloat16_is_fast(images.device):
        return None
    try:
        unrounded = differentiable_copy(model, images[:1], dtype=torch.float32)
        copied = differentiable_copy(model, images[:1])
    except NoCopyError as error:
        raise IbrobustError(
            f"A bfloat16 copy of this model is not possible, because {error}: leave precision=bf16 out."
        ) from error
    for candidate, limits in ((unrounded, SAME_FUNCTION), (copied, SAME_BUT_FOR_ROUNDING)):
        agreeing = float(agrees(candidate, model, images, labels, limits).float().mean())
        if agreeing < LEAST_AGREEING:
            raise IbrobustError(
                f"The bfloat16 copy of this model agrees with its logits and gradients on {agreeing:.0%} of the images "
                "in the comparison, because the model has a backward pass of its own or rounding changes it too much: "
                "leave precision=bf16 out."
            )

    def gradient_of(candidate: nn.Module) -> object:
        return loss_gradient(candidate, images, labels, _smooth_margin)

    faster = is_faster(lambda: gradient_of(copied), lambda: gradient_of(model), images.device)
    return copied if faster else None


def agrees(copied: nn.Module, model: nn.Module, images: Tensor, labels: Tensor, limits: tuple[float, float]) -> Tensor:
    """Return (B,) bool, whether the copy's logits and its gradient in the image agree with the model's within `limits`.

    If the model's own gradient is NaN, this counts as no agreement.
    """
    least_cosine, largest_difference = limits
    gradient, _, logits = loss_gradient(model, images, labels, _smooth_margin)
    found, _, found_logits = loss_gradient(copied, images, labels, _smooth_margin)
    gradient, found = gradient.flatten(1).cpu().double(), found.flatten(1).cpu().double()  # MPS has no float64
    # Both zero: neither attack would move the image.
    same = (F.cosine_similarity(gradient, found, eps=0.0) >= least_cosine) | (gradient == found).all(dim=1)
    finite = gradient.isfinite().all(dim=1)
    size = logits.nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=1, keepdim=True)
    near = ((logits - found_logits).abs() <= largest_difference * size) | (logits == found_logits)
    return (same & finite).to(logits.device) & near.all(dim=1)


BatchAttack = Callable[[nn.Module, Tensor, Tensor], Found]


def search_on_copy(attack: BatchAttack, copied: nn.Module, model: nn.Module, images: Tensor, labels: Tensor) -> Found:
    """Return adversarial images (B, C, H, W), (B,) bool for images with a NaN gradient, and the attack's warnings.

    The attack runs on a copy of the model, then on the model itself for images for which only the copy gives a result.
    These are images that break only the copy, unbroken images on which the two disagree, and images with a NaN gradient
    of the copy alone. Only the model's own answer counts, since the caller evaluates it for the classes.
    """
    adversarial, unsure, flags = attack(copied, images, labels)
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
        found, without_gradient, _ = attack(model, images[again], labels[again])
        adversarial[again] = found
        nonfinite[again] |= without_gradient
    return Found(adversarial, nonfinite, flags)


def _smooth_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) log-sum-exp of the other classes' logits minus the label's: smooth, with a nonzero gradient."""
    own = logits.gather(1, labels[:, None])[:, 0]  # (B,)
    return logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1) - own
