"""The paper's residual fully-connected decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.devices import gpus_in_use
from ibrobust.full_precision import default_dtype

# The paper's.
DEFAULT_UNITS = 1024


class ResidualBlock(nn.Module):
    """BatchNorm, ReLU, linear, BatchNorm, ReLU, linear, around a shortcut."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm1d(units)
        self.linear1 = nn.Linear(units, units)
        self.bn2 = nn.BatchNorm1d(units)
        self.linear2 = nn.Linear(units, units)

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear1(F.relu(self.bn1(x)))
        return x + self.linear2(F.relu(self.bn2(out)))


class ResFCDecoder(nn.Module):
    """Linear to 1024 units, 5 residual blocks, BatchNorm, linear to the classes (Kirsch, Lyle, Gal 2020, section 5)."""

    def __init__(self, latent_dim: int, num_classes: int, *, units: int = DEFAULT_UNITS, num_blocks: int = 5) -> None:
        super().__init__()
        self.stem = nn.Linear(latent_dim, units)
        self.blocks = nn.Sequential(*(ResidualBlock(units) for _ in range(num_blocks)))
        self.bn = nn.BatchNorm1d(units)
        self.output = nn.Linear(units, num_classes)

    def forward(self, latents: Tensor) -> Tensor:
        """Return logits (B, C) for latents (B, D)."""
        return self.output(self.bn(self.blocks(self.stem(latents))))


@default_dtype(torch.float32)
def fit_resfc(
    latents: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    seed: int,
    units: int = DEFAULT_UNITS,
    epochs: int = 10,
    batch_size: int = 250,
    learning_rate: float = 1e-3,
) -> ResFCDecoder:
    """Return the decoder trained on latents with Adam and a one-cycle learning rate, in evaluation mode.

    Args:
        latents: (N, D) clean latents.
        labels: (N,) int64.
        num_classes: C.
        seed: decides the initial weights and the order of the latents.
        units: of every layer.
        epochs: passes over the latents.
        batch_size: latents per step.
        learning_rate: the highest learning rate of the cycle.
    """
    points, targets = latents.detach().float(), labels
    generator = torch.Generator().manual_seed(seed)
    batch_size = min(batch_size, len(points))
    steps = len(points) // batch_size
    with torch.random.fork_rng(devices=gpus_in_use()), torch.enable_grad():  # a seed sets the generators of all GPUs
        torch.manual_seed(seed)
        decoder = ResFCDecoder(points.shape[1], num_classes, units=units).to(points.device)
        optimizer = torch.optim.Adam(decoder.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps)
        for _ in range(epochs):
            order = torch.randperm(len(points), generator=generator).to(points.device)
            for chosen in order[: steps * batch_size].view(steps, batch_size):
                loss = F.cross_entropy(decoder(points[chosen]), targets[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
    return decoder.eval()
