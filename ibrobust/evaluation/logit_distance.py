"""How far two outputs of a model for the same images are apart, and whether the model draws random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# A larger distance is no rounding; as in AutoAttack's check for randomised models.
SAME = 1e-4
_ROUNDING = 1e-6  # of the largest logit, in float32


def logit_distance(one: Tensor, other: Tensor) -> float:
    """Return the largest distance over the images, as a share of how far an image's logits are spread.

    A shift that all classes share hides nothing, and neither does a class that is ruled out by -inf. A logit that is a
    number in one output alone counts as a distance of 1, and one that is NaN or infinite in both as equal.

    Args:
        one: (B, K) logits.
        other: (B, K) logits for the same images.
    """
    one, other = one.double(), other.double()
    lost = (one.isfinite() != other.isfinite()).any(dim=1)
    both = one.isfinite() & other.isfinite()
    number = both.sum(dim=1, keepdim=True).clamp(min=1)
    one, other = one.where(both, 0.0), other.where(both, 0.0)
    spread = (one - one.sum(dim=1, keepdim=True) / number).where(both, 0.0).norm(dim=1)
    apart = (one - other).norm(dim=1) - _ROUNDING * one.abs().amax(dim=1)
    shares = apart.clamp(min=0.0) / (spread + 1e-10)
    return float(torch.where(lost, shares.clamp(min=1.0), shares).max())


@torch.no_grad()
def draws_random_numbers(model: nn.Module, images: Tensor) -> bool:
    """Return whether two passes over the same images (B, C, H, W) differ by more than rounding."""
    return logit_distance(model(images), model(images)) > SAME
