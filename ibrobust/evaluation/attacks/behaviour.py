"""A model's outputs for a few images, by which a resumed evaluation recognises the model.

Weights do not identify a model: the same weights may be used with another activation, temperature or quantisation, and
a model's source may have been edited. So a state holds logits and gradients, as numbers and not as a hash, since
another number of threads changes their last digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ibrobust.evaluation.guarded_model import image_gradient
from ibrobust.isolated_rng import isolated_rng

_IMAGES = 4
_DIRECTIONS = 8
# Images with noise lie between the 256 levels of a pixel, as attacked ones do; a quantiser may change only those.
_NOISE = 8 / 255
# Of logits: a share of how far they are spread, which tells temperature 1 from 1.0001, and float32's own rounding.
_SPREAD_TOLERANCE, _ROUNDING = 2e-5, 1e-6
# Of gradients: a share of their norm. Rounding moves a few activations across the kink of a ReLU.
_GRADIENT_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Behaviour:
    """A model's outputs for M images, as plain numbers.

    Attributes:
        logits: M rows of K.
        gradients: M rows: the norm of the gradient of a fixed combination of the logits, and its products with eight
            fixed directions.

    Raises:
        TypeError, ValueError: they are no such rows, as read from a damaged file.
    """

    logits: list[list[float]]
    gradients: list[list[float]]

    def __post_init__(self) -> None:
        if _table(self.logits).dim() != 2 or _table(self.gradients).dim() != 2:
            raise ValueError("the model's outputs are not tables of numbers")

    def difference(self, other: Behaviour) -> str | None:
        """Return which outputs of another model differ beyond rounding, "logits" or "gradients"; None if they agree."""
        mine, others = _table(self.logits), _table(other.logits)
        if mine.shape != others.shape:
            return "logits"
        finite = torch.where(mine.isfinite(), mine, 0.0)
        spread, largest = finite.std(dim=1, keepdim=True), finite.abs().amax(dim=1, keepdim=True)
        if not _agree(mine, others, _SPREAD_TOLERANCE * spread + _ROUNDING * largest):
            return "logits"
        mine, others = _table(self.gradients), _table(other.gradients)
        if mine.shape != others.shape or not _agree(mine, others, _GRADIENT_TOLERANCE * mine[:, :1]):
            return "gradients"
        return None


def behaviour(model: Callable[[Tensor], Tensor], images: Tensor) -> Behaviour:
    """Return a model's outputs for the images, unchanged and with a little noise that is always the same.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode; one that draws random numbers from
            torch's, NumPy's or Python's generators draws the same ones each time.
        images: (B, C, H, W) in [0, 1], on the model's device; see `some_images`.
    """
    generator = torch.Generator().manual_seed(0)
    noise = _NOISE * (2 * torch.rand(images.shape, generator=generator) - 1)
    points = torch.cat([images, (images + noise.to(images)).clamp(0, 1)]).detach().requires_grad_()
    with isolated_rng(0), torch.enable_grad():
        logits = model(points.clone())  # (M, K)
        # A random combination, since the gradient of cross-entropy vanishes for a confident model.
        weights = torch.randn(logits.shape[1], generator=generator).to(logits)
        total = (logits * weights).sum() + 0.0 * points[:0].sum()
        gradient = image_gradient(total, points)
    rows = gradient.flatten(1).cpu().double()
    directions = torch.randn(rows.shape[1], _DIRECTIONS, generator=generator, dtype=torch.float64)
    summary = torch.cat([rows.norm(dim=1, keepdim=True), rows @ directions], dim=1)
    return Behaviour(logits.detach().cpu().double().tolist(), summary.tolist())


def some_images(images: Tensor) -> Tensor:
    """Return a few of the images (N, C, H, W), evenly spaced."""
    return images[torch.linspace(0, len(images) - 1, min(_IMAGES, len(images))).long().to(images.device)]


def _table(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _agree(one: Tensor, other: Tensor, tolerance: Tensor) -> bool:
    """Return whether two tables agree to a tolerance (M, 1); NaN agrees with NaN, infinity with itself."""
    close = (one - other).abs() <= tolerance
    return bool((close | (one == other) | (one.isnan() & other.isnan())).all())
