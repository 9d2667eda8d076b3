"""The baseline: cross-entropy through a linear head, optionally with dropout or DropConnect."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.objectives.base import Loss, Objective


class CrossEntropy(Objective):
    """min E[-log q(y | z)], q the softmax of a head that is trained with the encoder, in nats.

    Args:
        latent_dim: D.
        num_classes: C.
        head: latents (B, D) -> logits (B, C); it contains its own regularisation (dropout, DropConnect).
    """

    options: ClassVar[tuple[str, ...]] = ("head",)

    def __init__(self, *, latent_dim: int, num_classes: int, head: nn.Module | None = None) -> None:
        super().__init__()
        self.head: nn.Module = head if head is not None else nn.Linear(latent_dim, num_classes)

    def forward(self, latents: Tensor, labels: Tensor) -> Loss:
        """Return the loss of latents (B, D) with labels (B,); the term ``H[Y|Z]`` is its upper bound, in nats."""
        loss = F.cross_entropy(self.head(latents), labels)
        return Loss(loss, {"H[Y|Z]": loss})
