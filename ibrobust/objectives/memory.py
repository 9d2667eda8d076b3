"""The latest latents of a training, kept as further neighbours of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The label of an empty place.
EMPTY = -1


class LatentMemory(nn.Module):
    """The latest `size` latents with their labels. They get no gradient.

    An entropy is then estimated from more points than a batch holds ("samples from the whole training set", Kirsch,
    Lyle, Gal 2020, section 4.1). Buffers, so that a resumed training has the same neighbours. Memory and batch together
    must hold fewer images than there are, or an image would be its own neighbour (`ibrobust.training.build.check_fit`).

    Args:
        size: M, the number of latents kept; with 0 none is.
        latent_dim: D.
    """

    latents: Tensor
    labels: Tensor

    def __init__(self, size: int, latent_dim: int) -> None:
        super().__init__()
        self.size = size
        if size:
            self.register_buffer("latents", torch.zeros(size, latent_dim))
            self.register_buffer("labels", torch.full((size,), EMPTY))

    def contents(self) -> tuple[Tensor, Tensor] | None:
        """Return the latents (M, D), the latest first, with their labels (M,), `EMPTY` if nothing was put yet.

        None if nothing is kept.
        """
        return (self.latents, self.labels) if self.size else None

    def remember(self, latents: Tensor, labels: Tensor) -> None:
        """Add a batch of latents (B, D) with labels (B,) and drop the oldest."""
        if self.size:
            self.latents = torch.cat([latents.detach().to(self.latents), self.latents])[: self.size]
            self.labels = torch.cat([labels, self.labels])[: self.size]
