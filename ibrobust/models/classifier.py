"""Encoder and decoder together: an ordinary image classifier."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.fx
from torch import Tensor, nn

from ibrobust.full_precision import full_precision
from ibrobust.models.encoder import Encoder, fast_memory_format


def with_contiguous_gradient(images: Tensor) -> Tensor:
    """Return the same images, whose gradient will be contiguous: torchattacks reads it as if it were."""
    if images.requires_grad:
        images = images.view_as(images)  # whose hook is called for this call alone
        # The gradient is None if what follows does not depend on the logits.
        images.register_hook(lambda gradient: None if gradient is None else gradient.contiguous())
    return images


torch.fx.wrap("with_contiguous_gradient")  # which cannot trace a branch


class ImageClassifier(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> logits (B, C). Deterministic and differentiable in evaluation mode.

    Args:
        encoder: images -> outputs (B, E).
        decoder: latents (B, latent_dim) -> logits (B, C).
        latent_dim: number of the encoder's outputs, from the first, that are the latents; by default all. A Gaussian
            encoder gives the mean first and the log standard deviation after it, so that its first half is the mean.
    """

    def __init__(self, encoder: Encoder, decoder: nn.Module, *, latent_dim: int | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim if latent_dim is not None else encoder.latent_dim

    def latents(self, images: Tensor) -> Tensor:
        """Return latents (B, latent_dim): noise-free; the mean if the encoder gives a distribution."""
        outputs: Tensor = self.encoder(images)
        return outputs[:, : self.latent_dim]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W) in [0, 1]."""
        return self.decoder(self.latents(with_contiguous_gradient(images)))

    def to_fast_memory_format(self) -> ImageClassifier:
        """Put the weights in the fastest memory format of their device; return self."""
        device = next(self.encoder.parameters()).device
        return self.to(memory_format=fast_memory_format(self.encoder, device))


@torch.no_grad()
def encode_in_batches(encoder: nn.Module, batches: Iterator[Tensor]) -> Tensor:
    """Return the encoder's outputs (N, E) for all batches of images (B, 3, H, W) in [0, 1], in evaluation mode.

    They are computed in the precision of the images' dtype, see `full_precision`.
    """
    modes = [(module, module.training) for module in encoder.modules() if hasattr(module, "training")]
    encoder.eval()
    try:
        with full_precision():
            return torch.cat([encoder(images) for images in batches])
    finally:
        for module, training in modes:  # each, since some parts may have had another mode than the whole
            if module.training != training:
                module.train(training)
