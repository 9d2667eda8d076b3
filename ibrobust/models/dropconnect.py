"""The DropConnect linear layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.errors import IbrobustError


class DropConnectLinear(nn.Linear):
    """A linear layer whose weights, not its inputs, are dropped (Wan et al. 2013).

    In training every example of a batch has its own mask M of weights, y = (M * W) x + b with M ~ Bernoulli(1 - rate).
    In evaluation the layer is the mean network, y = (1 - rate) W x + b. The bias is never dropped.

    Args:
        in_features: inputs.
        out_features: outputs.
        rate: probability in [0, 1) that a weight is dropped.
    """

    def __init__(self, in_features: int, out_features: int, *, rate: float) -> None:
        if not 0.0 <= rate < 1.0:
            raise IbrobustError(f"The DropConnect rate {rate} is outside [0, 1): give, for example, 0.5.")
        super().__init__(in_features, out_features)
        self.rate = rate

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, out_features) for inputs (B, in_features)."""
        if not self.training:
            return F.linear(inputs, (1.0 - self.rate) * self.weight, self.bias)
        shape = (len(inputs), *self.weight.shape)
        mask = torch.rand(shape, device=inputs.device) >= self.rate  # (B, out, in)
        return torch.einsum("boi,bi->bo", mask * self.weight, inputs) + self.bias
