"""One training step's forward pass, from images to the loss of the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ibrobust.collectives import gather, own_share
from ibrobust.models import Encoder
from ibrobust.objectives import Objective


class TrainingStep(nn.Module):
    """Encoder, noise and objective as one module, so that whatever wraps a model for training wraps all of them.

    In several processes each encodes its share of a batch. In all of them noise is drawn for the whole batch, and the
    objective sees the whole batch: an entropy is estimated from all points, and nothing depends on how many processes
    there are.
    """

    def __init__(self, encoder: Encoder, noise: nn.Module, objective: Objective, *, compiled: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        # Its forward pass alone: a compiled module would be one more, with other names for the same weights.
        self._encode: Callable[[Tensor], Tensor] = torch.compile(encoder.forward) if compiled else encoder.__call__
        self.noise = noise
        self.objective = objective

    def forward(
        self, images: Tensor, labels: Tensor, indices: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the whole batch, a scalar in nats, and its terms.

        Args:
            images: (B / P, 3, H, W) in [0, 1], this process's share of the batch.
            labels: (B / P,) int64.
            indices: (B / P,) int64, which image of the training split each one is; by default all differ.
        """
        images = self.objective.training_images(images, labels, self._own_latents)
        known = {"images": gather(indices)} if indices is not None and self.objective.knows_images else {}
        loss = self.objective(self._latents(images), gather(labels), **known)
        return loss.total, dict(loss.terms)

    def _latents(self, images: Tensor) -> Tensor:
        encoded = self._encode(images)
        # Autocast gives half precision, in which noise and distances would be rounded to less than 3 digits.
        exact = encoded if encoded.dtype == torch.float64 else encoded.float()
        latents: Tensor = self.noise(gather(exact))  # (B, D)
        return latents

    def _own_latents(self, images: Tensor) -> Tensor:
        return own_share(self._latents(images))  # (B / P, D)
