"""Models that an audit may take for what they are not: honest ones that look odd, and fakes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Wrapped(nn.Module):
    """Something around an honest classifier of images (B, 3, 16, 16)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def straight_through(images: Tensor, replaced: Tensor) -> Tensor:
    """Return `replaced` with the gradient of `images`."""
    return images + (replaced - images).detach()


class StraightThroughQuantiser(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(straight_through(images, torch.round(15.0 * images) / 15.0))


class Thermometer(Wrapped):
    """Pixels as ten bits, of which the classifier sees the mean."""

    def forward(self, images: Tensor) -> Tensor:
        bits = torch.stack([(images > (level + 0.5) / 10.0).to(images) for level in range(10)])
        return self.model(straight_through(images, bits.mean(dim=0)))


class JpegLike(Wrapped):
    """Cosine coefficients of 8 x 8 blocks, rounded."""

    def __init__(self, model: nn.Module, step: float = 0.05) -> None:
        super().__init__(model)
        k = torch.arange(8.0)
        basis = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / 8.0) * 0.5
        basis[0] /= math.sqrt(2.0)
        self.register_buffer("basis", basis)
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        blocks = images.view(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
        rounded = torch.round(self.basis @ blocks @ self.basis.T / self.step) * self.step
        decoded = (self.basis.T @ rounded @ self.basis).transpose(3, 4).reshape(images.shape)
        return self.model(straight_through(images, decoded))


class WinnersTakeAll(nn.Module):
    """In place of a ReLU: the largest tenth of an image's activations, the others zero."""

    def forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(1)
        smallest = flat.topk(max(flat.shape[1] // 10, 1)).values[:, -1:]
        return torch.where(flat >= smallest, flat, 0.0).view_as(features)


class Noise(Wrapped):
    def __init__(self, model: nn.Module, deviation: float) -> None:
        super().__init__(model)
        self.deviation = deviation

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + self.deviation * torch.randn_like(images))


class RandomResize(Wrapped):
    """Another size and place at every call."""

    def forward(self, images: Tensor) -> Tensor:
        size = int(torch.randint(12, 17, ()))
        left, top = (int(torch.randint(0, 17 - size, ())) for _ in range(2))
        resized = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        return self.model(F.pad(resized, (left, 16 - size - left, top, 16 - size - top)))


class SparseGradient(Noise):
    """Small noise, and a gradient of one pixel in ten, of others at every call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, 0.003)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.where(torch.rand_like(images) < 0.1, images, images.detach()))


class Temperature(Wrapped):
    """Logits over a temperature, as distillation leaves them."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__(model)
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) / self.temperature


class Detector(Wrapped):
    """One more class, the likeliest if neighbouring pixels differ by more than `most` in the mean."""

    def __init__(self, model: nn.Module, most: float) -> None:
        super().__init__(model)
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        rough = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
        rejected = logits.amax(dim=1) + 1000.0 * (rough - self.most)
        return torch.cat([logits, rejected[:, None]], dim=1)


class Detached(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.detach())


class ThroughNumpy(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(torch.from_numpy(images.detach().numpy()))


class WithoutGrad(Wrapped):
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class NoEmptyBatch(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        assert len(images) > 0
        return self.model(images)


class Hidden(torch.autograd.Function):
    """The images, without a gradient that anything could find."""

    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)
