"""Square (Andriushchenko et al. 2020), a random search that only needs logits, on images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.evaluation.attacks.autoattack import square_takes
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import LibraryModel
from ibrobust.evaluation.worst_case_attack.random_tiles import random_tiles
from ibrobust.full_precision import default_dtype


def square(
    model: nn.Module, images: Tensor, labels: Tensor, *, ball: Ball, queries: int, generator: torch.Generator
) -> Tensor:
    """Return a point (B, C, H, W) of the ball for each image, misclassified if the search succeeded.

    On images that are too small for Square, `random_tiles` makes as many queries. pyautoattack's Square starts every
    batch from the generator's seed, and sets the seed of torch's global generators.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1], on the model's device; one batch.
        labels: (B,).
        ball: the allowed perturbations.
        queries: per image.
        generator: of the random numbers, on the CPU: of all batches of a search.
    """
    from pyautoattack.square import SquareAttack

    if not square_takes(images, ball.norm):
        return random_tiles(model, images, labels, ball=ball, queries=queries, generator=generator)
    attack = SquareAttack(
        LibraryModel(model),
        norm=ball.norm,
        n_queries=queries,
        eps=ball.epsilon,
        n_restarts=1,
        seed=generator.initial_seed(),
        device=images.device,
    )
    with torch.no_grad(), default_dtype(torch.float32):
        found = attack.perturb(images.float(), labels)
    return ball.project(found.to(images), images)
