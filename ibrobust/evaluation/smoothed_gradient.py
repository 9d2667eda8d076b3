"""A model's gradient, averaged over the ball: for models whose gradient is right at a point, but not next to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.replaced_gradient import with_gradient_of


class SmoothedGradient(nn.Module):
    """The same logits as the model's, with the gradient of their mean over random points of the ball around an image.

    A ripple that is finer than the ball has many local maxima in it, where an attack that follows the gradient ends.
    The mean has fewer.

    Args:
        model: in a guard: images (B, C, H, W) in [0, 1] -> logits (B, K).
        ball: the attack's.
        draws: random points for each gradient.
        seed: of these points.
    """

    def __init__(self, model: nn.Module, ball: Ball, *, draws: int, seed: int) -> None:
        super().__init__()
        self.model, self.ball, self.draws = model, ball, draws
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        with torch.no_grad():
            logits: Tensor = self.model(images)
        if not torch.is_grad_enabled():
            return logits
        middle = images.detach()
        points = [self.ball.random_point(middle, self._generator) for _ in range(self.draws)]
        nothing = images - middle  # 0, with the images' gradient: the points stay in [0, 1] to the last bit
        mean = torch.stack([self.model(point + nothing) for point in points]).mean(dim=0)
        return with_gradient_of(logits, mean)
