"""Batch statistics over all processes of a training, so that normalisation does not depend on their number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.collectives import gather, own_share
from ibrobust.models import FixedPower


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of the whole batch. torch.nn.SyncBatchNorm does the same, on GPUs only."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        x = features if features.dtype == torch.float64 else features.float()  # (B / P, C, H, W)
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        shares = gather(torch.stack([mean, variance])[None])  # (P, 2, C)
        mean = shares[:, 0].mean(dim=0)
        variance = (shares[:, 1] + (shares[:, 0] - mean).square()).mean(dim=0)
        self._follow(mean.detach(), variance.detach(), count=len(shares) * x.numel() // x.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt()
        normalised = (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(features.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None  # noqa: PT018
        assert self.num_batches_tracked is not None and self.momentum is not None  # noqa: PT018
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), self.momentum)


class GlobalFixedPower(FixedPower):
    """`FixedPower` over the whole batch."""

    def forward(self, latents: Tensor) -> Tensor:
        if not self.training:
            return super().forward(latents)
        return own_share(super().forward(gather(latents)))


def use_global_statistics(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module with batch statistics over all processes; parameters, buffers and names stay the same.

    Args:
        module: modified in place if possible.
        device: on which it will run.
    """
    for part in module.modules():
        # The class alone: what has the parts' parameters and buffers, an optimiser for example, must go on having them.
        if type(part) is FixedPower:
            part.__class__ = GlobalFixedPower
        elif type(part) is nn.BatchNorm2d and device.type != "cuda":
            part.__class__ = GlobalBatchNorm2d
    return nn.SyncBatchNorm.convert_sync_batchnorm(module) if device.type == "cuda" else module
