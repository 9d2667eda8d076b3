"""A random search in L2 for images that are too small for Square."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.ball import Ball

LEAST_PUSH = 0.05  # of epsilon: the last proposals are as large as that


@torch.no_grad()
def random_tiles(
    model: nn.Module, images: Tensor, labels: Tensor, *, ball: Ball, queries: int, generator: torch.Generator
) -> Tensor:
    """Push random tiles up or down and keep what raises the margin, at the full radius; it only needs logits.

    Tiles and pushes shrink, as Square's do. The arguments and the result are those of `square`.
    """
    height, width = images.shape[2:]
    best, value = images.clone(), margin(model(images), labels)
    for query in range(queries):
        left = 1.0 - query / queries
        side = max(1, round(0.5 * left * min(height, width)))
        row, column = (int(torch.randint(size - side + 1, (), generator=generator)) for size in (height, width))
        signs = torch.randint(0, 2, (*images.shape[:2], 1, 1), generator=generator).to(images) * 2.0 - 1.0
        delta = best - images
        push = max(left, LEAST_PUSH) * ball.epsilon / side
        delta[:, :, row : row + side, column : column + side] += push * signs
        length = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        points = ball.project(images + delta * (ball.epsilon / length), images)
        found = margin(model(points), labels).nan_to_num(torch.inf)
        better = found > value
        best[better], value[better] = points[better], found[better]
        if bool((value > 0).all()):
            break
    return best
