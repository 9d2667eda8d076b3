"""The latest latents of a training, kept as further neighbours of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.spread import evenly_spaced

# The label of an empty place, and the image of a point if it is not known: no image of a batch has this index.
EMPTY = -1


class LatentMemory(nn.Module):
    """The latest `size` latents with their labels and images. They get no gradient.

    An entropy is then estimated from more points than a batch holds ("samples from the whole training set", Kirsch,
    Lyle, Gal 2020, section 4.1). Buffers, so that a resumed training has the same neighbours.

    If M is not a multiple of the batch size, only a part of the oldest batch fits. Its points are spread evenly over
    that batch, because a balanced batch is sorted by class.

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
            batch = len(labels)
            whole = self.size // batch * batch  # points in whole batches; the next batch is the oldest that still fits
            part = whole + evenly_spaced(batch, self.size - whole, labels.device)

            def latest(new: Tensor, kept: Tensor) -> Tensor:
                points = torch.cat([new, kept])
                return torch.cat([points[:whole], points[part]])

            known = images if images is not None else torch.full_like(labels, EMPTY)
            self.images = latest(known, self.images)
            self.latents = latest(latents.detach().to(self.latents), self.latents)
            self.labels = latest(labels, self.labels)
