"""The search set of an attack: a ball around an image, within [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.option_types import NORMS
from ibrobust.evaluation.attacks.perturbation import perturbation_size

# x + delta is rounded to 6e-8 in float32. A candidate further outside than this does not count.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Ball:
    """All images within `epsilon` of another one in `norm`, with pixels in [0, 1].

    Attributes:
        norm: Linf or L2.
        epsilon: radius in [0, 1] pixel scale.
    """

    norm: str
    epsilon: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise IbrobustError(f"Unknown norm {self.norm!r}: choose {' or '.join(NORMS)}.")

    def project(self, points: Tensor, images: Tensor, factor: float = 1.0) -> Tensor:
        """Return points (B, C, H, W) moved into the ball of `factor` times the radius around images and [0, 1].

        In L2 a point is pulled towards its image and then clipped. That is inside both sets, though not always the
        nearest such point.
        """
        radius = factor * self.epsilon
        if self.norm == "Linf":
            return torch.minimum(torch.maximum(points, images - radius), images + radius).clamp(0.0, 1.0)
        delta = points - images
        # A little less than the radius, so that rounding of a long sum leaves the point inside.
        scale = (radius * (1.0 - 1e-6) / _length(delta).clamp(min=1e-30)).clamp(max=1.0)
        return (images + delta * scale).clamp(0.0, 1.0)

    def direction(self, gradient: Tensor, points: Tensor) -> Tensor:
        """Return the steepest step (B, C, H, W) of length 1 in this norm.

        A NaN gradient gives no step. In L2, pixels that would leave [0, 1] get no share of the length.
        """
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        if self.norm == "Linf":
            return gradient.sign()
        outward = ((points <= 0.0) & (gradient < 0.0)) | ((points >= 1.0) & (gradient > 0.0))
        # Scaled twice: the squares of a tiny gradient would underflow.
        inward = gradient.masked_fill(outward, 0.0)
        inward = inward / inward.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        return inward / _length(inward).clamp(min=1e-30)

    def random_point(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a point (B, C, H, W) in the ball: anywhere (Linf), or far out (L2)."""
        noise = torch.randn if self.norm == "L2" else torch.rand
        # From a generator on the CPU, so that every device gets the same points.
        drawn = noise(images.shape, generator=generator).to(images)
        if self.norm == "Linf":
            return self.project(images + (2.0 * drawn - 1.0) * self.epsilon, images)
        return self.project(images + drawn * (self.epsilon / _length(drawn)), images)

    def corner(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a random point (B, C, H, W) as far from the images as the ball allows."""
        drawn = torch.randn(images.shape, generator=generator).to(images)
        step = self.direction(drawn, images)
        return self.project(images + self.epsilon * step, images)

    def contains(self, points: Tensor, images: Tensor) -> Tensor:
        """Return (B,) bool, whether each point is in the ball and in [0, 1], up to float rounding. NaN is not."""
        near = perturbation_size(points - images, self.norm) <= self.epsilon + TOLERANCE
        return near & ((points >= 0.0) & (points <= 1.0)).flatten(1).all(dim=1)


def _length(delta: Tensor) -> Tensor:
    """Return the Euclidean lengths (B, 1, 1, 1)."""
    return torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
