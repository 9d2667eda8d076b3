"""Whether a model gives other logits when a gradient is taken."""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.guarded_model import GuardedModel
from ibrobust.evaluation.logit_distance import MOVED, logit_distances
from ibrobust.isolated_rng import isolated_rng

GRAD_MODE = (
    "The model gives other logits when a gradient is taken: attacks that follow the gradient see another model "
    "than the one that is judged."
)

TRACKED = 8  # images whose logits are computed with a gradient


def grad_mode_distance(model: GuardedModel, images: Tensor) -> float:
    """Return how far logits with a gradient are from those without, see `logit_distance`; above `MOVED` is no rounding.

    It is the largest distance over the images (B, C, H, W), of which at most the first `TRACKED` are used. In half
    precision, where other kernels round much, it is the median.
    """
    images = images[:TRACKED].detach()
    with isolated_rng(0), torch.no_grad():
        without = model(images)
    with isolated_rng(0), torch.enable_grad():
        try:
            tracked = model(images.clone().requires_grad_()).detach()
        except IbrobustError:  # it takes no such images: an attack that follows the gradient will say so
            return 0.0
    distances = logit_distances(without, tracked)
    return float(distances.median() if model.in_half_precision else distances.max())


def grad_mode_flags(model: GuardedModel, images: Tensor) -> tuple[str, ...]:
    """Return a warning if a model that draws no random numbers gives images other logits when a gradient is taken."""
    differs = grad_mode_distance(model, images) > MOVED and not model.is_random(images)
    return (GRAD_MODE,) if differs else ()
