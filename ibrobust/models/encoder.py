"""ResNet18 for small images, from pixels to latents, with its normalisation inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.models.channels import require_channels
from ibrobust.models.fixed_power import FixedPower

torch.fx.wrap("require_channels")

# Up to this width the CPU's convolutions run faster in channels_last, above it in the default format. On CUDA
# channels_last suits the tensor cores at every width.
WIDEST_CHANNELS_LAST_ON_CPU = 32

# For the weights' gradient of a strided 1x1 convolution of fewer channels, in channels_last, oneDNN 3.12 (torch 2.14)
# writes past a buffer of its own (oneDNN issue 6035): wrong gradients, or a crash.
FEWEST_STRIDED_CHANNELS = 16


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut (He et al. 2016)."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        # Pixels that a strided 1x1 convolution skips can be removed before it.
        self.pixel_step = stride if in_channels < FEWEST_STRIDED_CHANNELS else 1
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride // self.pixel_step, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        kept = x if self.pixel_step == 1 else x[:, :, :: self.pixel_step, :: self.pixel_step]
        return F.relu(out + self.shortcut(kept))


class Encoder(nn.Module):
    """ResNet18 with a 3x3 stem and no max-pooling, as is usual for 32x32 images.

    Args:
        width: channels of the first stage; the next three stages each have twice as many. 64 is the standard.
        latent_dim: outputs of the linear layer on the pooled features; None removes that layer, and the outputs are the
            8 * width pooled features.
        mean: mean of each input channel, in [0, 1] scale.
        std: standard deviation of each input channel, in [0, 1] scale.
        fixed_power: centre the latents and fix their power, see `FixedPower`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        width: int = 64,
        latent_dim: int | None = 256,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        fixed_power: bool = False,
    ) -> None:
        super().__init__()
        if width < 1 or (latent_dim is not None and latent_dim < 1):
            raise IbrobustError(f"An encoder of width {width} and latent_dim {latent_dim}: both must be at least 1.")
        if min(std) <= 0:
            raise IbrobustError(f"A channel has the standard deviation {min(std)}: normalisation divides by it.")
        self.width = width
        self.latent_dim = latent_dim if latent_dim is not None else 8 * width
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.conv1 = nn.Conv2d(len(mean), width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.latent: nn.Module = nn.Identity() if latent_dim is None else nn.Linear(8 * width, latent_dim)
        self.power: nn.Module = FixedPower(self.latent_dim) if fixed_power else nn.Identity()
        for module in self.modules():
            # Weights without storage will be replaced, and drawing them would import PyTorch's compiler.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return latents (B, latent_dim) of images (B, 3, H, W) in [0, 1]."""
        require_channels(images, self.mean.shape[1])
        x = (images - self.mean) / self.std
        x = F.relu(self.bn1(self.conv1(x)))  # (B, width, H, W)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 8 * width, H / 8, W / 8)
        return self.power(self.latent(x.mean(dim=(2, 3))))  # (B, latent_dim)


def _stage(in_channels: int, channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(in_channels, channels, stride=stride), BasicBlock(channels, channels, stride=1))


def fast_memory_format(encoder: Encoder, device: torch.device) -> torch.memory_format:
    """Return the fastest memory format for the encoder's convolutions on `device`."""
    if device.type == "cuda" or encoder.width <= WIDEST_CHANNELS_LAST_ON_CPU:
        return torch.channels_last
    return torch.contiguous_format
