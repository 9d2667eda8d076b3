"""Zero-entropy Gaussian noise on the latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# A d-dimensional N(0, sigma^2 I) has entropy d / 2 * log(2 pi e sigma^2) nats: zero at this variance.
ZERO_ENTROPY_VARIANCE = 1.0 / (2.0 * math.pi * math.e)


class ZeroEntropyNoise(nn.Module):
    """Adds N(0, I / (2 pi e)) in training mode and nothing in evaluation mode.

    With it H[Z] >= H[noise] = 0 nats (Kirsch, Lyle, Gal 2020, section 3.1). Evaluation is noise-free because a
    robustness benchmark needs a deterministic forward pass.
    """

    def forward(self, latents: Tensor) -> Tensor:
        """Return latents (B, D), of the same dtype and device, with noise from the global generator added."""
        if not self.training:
            return latents
        return latents + math.sqrt(ZERO_ENTROPY_VARIANCE) * torch.randn_like(latents)
