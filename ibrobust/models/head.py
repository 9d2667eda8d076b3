"""Linear heads, trained together with an encoder, and their form after training."""

from __future__ import annotations

import torch
from torch import nn

from ibrobust.errors import IbrobustError
from ibrobust.models.dropconnect import DropConnectLinear


def build_head(latent_dim: int, num_classes: int, *, dropout: float = 0.0, dropconnect: float = 0.0) -> nn.Module:
    """Return a linear head (B, latent_dim) -> logits (B, num_classes), with dropout or DropConnect.

    Args:
        latent_dim: D.
        num_classes: C.
        dropout: probability in [0, 1) that a latent is dropped in training.
        dropconnect: probability in [0, 1) that a weight is dropped in training.

    Raises:
        IbrobustError: both are set.
    """
    if dropout and dropconnect:
        raise IbrobustError(f"Both dropout {dropout} and dropconnect {dropconnect} are set: choose one of them.")
    if dropconnect:
        return DropConnectLinear(latent_dim, num_classes, rate=dropconnect)
    linear = nn.Linear(latent_dim, num_classes)
    return nn.Sequential(nn.Dropout(dropout), linear) if dropout else linear


def evaluation_head(head: nn.Module) -> nn.Linear:
    """Return a plain linear layer equal to `head` in evaluation mode.

    Raises:
        IbrobustError: the head is not one linear layer, alone, after dropout, or with DropConnect.
    """
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    others = [layer for layer in head.modules() if not isinstance(layer, (nn.Linear, nn.Dropout, nn.Sequential))]
    if len(layers) != 1 or others:
        raise IbrobustError(
            f"The objective's head {type(head).__name__} is not a single linear layer, so it cannot be stored: give "
            "the objective a linear head, or none and choose a fitted decoder."
        )
    source = layers[0]
    scale = 1.0 - source.rate if isinstance(source, DropConnectLinear) else 1.0
    plain = nn.Linear(source.in_features, source.out_features).to(source.weight.device)
    with torch.no_grad():
        plain.weight.copy_(scale * source.weight)
        plain.bias.copy_(source.bias)
    return plain
