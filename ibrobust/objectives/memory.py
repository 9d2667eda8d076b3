"""The latest latents of a training, kept as further neighbours of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The label of an empty place, and the image of a point if it is not known: no image of a batch has this index.
EMPTY = -1


class LatentMemory(nn.Module):
    """The latest `size` latents with their labels and images. They get no gradient.

    An entropy is then estimated from more points than a batch holds ("samples from the whole training set", Kirsch,
    Lyle, Gal 2020, section 4.1). Buffers, so that a resumed training has the same neighbours.

    Args:
        size: M, the number of latents kept; with 0 none is.
        latent_dim: D.
    """

    latents: Tensor
    labels: Tensor
    images: Tensor

    def __init__(self, size: int, latent_dim: int) -> None:
        super().__init__()
        self.size = size
        if size:
            self.register_buffer("latents", torch.zeros(size, latent_dim))
            self.register_buffer("labels", torch.full((size,), EMPTY))
            self.register_buffer("images", torch.full((size,), EMPTY))

    def contents(self) -> tuple[Tensor, Tensor] | None:
        """Return the latents (M, D), the latest first, with their labels (M,), `EMPTY` if nothing was put yet.

        None if nothing is kept.
        """
        return (self.latents, self.labels) if self.size else None

    def images_with(self, images: Tensor | None) -> Tensor | None:
        """Return the image of each point of a batch and the memory, (B + M,), from those of the batch (B,).

        None if those of the batch are not known.
        """
        return torch.cat([images, self.images]) if self.size and images is not None else images

    def remember(self, latents: Tensor, labels: Tensor, images: Tensor | None = None) -> None:
        """Add a batch of latents (B, D) with labels (B,) and images (B,), and drop the oldest."""
        if self.size:
            known = images if images is not None else torch.full_like(labels, EMPTY)
            self.images = torch.cat([known, self.images])[: self.size]
            self.latents = torch.cat([latents.detach().to(self.latents), self.latents])[: self.size]
            self.labels = torch.cat([labels, self.labels])[: self.size]
