"""The prediction of a Gaussian encoder averaged over samples of its latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.models.classifier import ImageClassifier, with_contiguous_gradient
from ibrobust.models.encoder import Encoder


class SampledClassifier(ImageClassifier):
    """Images (B, 3, H, W) in [0, 1] -> log mean_s q(y | z_s) (B, C) in nats, with z_s ~ p(z | x) (Alemi et al. 2016).

    The samples are z_s = mean(x) + std(x) * n_s with n_1..n_S drawn once, by the seed, and shared by all images, so
    the model is deterministic and its gradient is that of the averaged prediction: an attack on it needs no
    expectation over transformations.

    Args:
        encoder: images -> (B, 2 * D), means and log standard deviations.
        decoder: latents (B, D) -> logits (B, C).
        num_samples: S; Alemi et al. 2016 use 12.
        seed: of the draws.

    Raises:
        IbrobustError: num_samples < 1, or the encoder's outputs are not two halves.
    """

    draws: Tensor

    def __init__(self, encoder: Encoder, decoder: nn.Module, *, num_samples: int = 12, seed: int = 0) -> None:
        if num_samples < 1:
            raise IbrobustError(f"num_samples is {num_samples}: at least 1 is needed.")
        if encoder.latent_dim % 2:
            raise IbrobustError(
                f"The encoder has {encoder.latent_dim} outputs: a mean and a log standard deviation for each latent "
                "dimension are needed."
            )
        super().__init__(encoder, decoder, latent_dim=encoder.latent_dim // 2)
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(num_samples, 1, encoder.latent_dim // 2, generator=generator)
        self.register_buffer("draws", draws, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities (B, C) in nats of images (B, 3, H, W) in [0, 1]."""
        precise = torch.promote_types(self.draws.dtype, torch.float32)
        mean, log_std = self.encoder(with_contiguous_gradient(images)).to(precise).chunk(2, dim=1)  # (B, D) each
        latents = mean + log_std.exp() * self.draws  # (S, B, D)
        logits = self.decoder(latents.flatten(0, 1)).to(precise).unflatten(0, latents.shape[:2])  # (S, B, C)
        return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(latents))
