"""Heads, trained together with an encoder, and their form after training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.models.dropconnect import DropConnectLinear


class MLPHead(nn.Sequential):
    """Linear layers with ReLU between them: latents (B, sizes[0]) -> logits (B, sizes[-1])."""

    def __init__(self, sizes: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


def build_head(
    latent_dim: int, num_classes: int, *, units: int = 0, dropout: float = 0.0, dropconnect: float = 0.0
) -> nn.Module:
    """Return a head (B, latent_dim) -> logits (B, num_classes), with dropout or DropConnect before its last layer.

    Args:
        latent_dim: D.
        num_classes: C.
        units: of a hidden layer with ReLU; 0 for a linear head.
        dropout: probability in [0, 1) that an input of the last layer is dropped in training.
        dropconnect: probability in [0, 1) that a weight of the last layer is dropped in training.

    Raises:
        IbrobustError: both are set.
    """
    if dropout and dropconnect:
        raise IbrobustError(f"Both dropout {dropout} and dropconnect {dropconnect} are set: choose one of them.")
    inputs = units or latent_dim
    hidden: list[nn.Module] = [nn.Linear(latent_dim, units), nn.ReLU()] if units else []
    if dropconnect:
        last: list[nn.Module] = [DropConnectLinear(inputs, num_classes, rate=dropconnect)]
    else:
        last = [nn.Dropout(dropout)] * bool(dropout) + [nn.Linear(inputs, num_classes)]
    layers = hidden + last
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def evaluation_head(head: nn.Module) -> nn.Linear | MLPHead:
    """Return plain linear layers in float32, with ReLU between them, equal to `head` in evaluation mode.

    Raises:
        IbrobustError: the head has other layers than linear ones, dropout, DropConnect, and ReLU between the linear
            ones; or it gives other logits than these layers, as with a `forward` of its own.
    """
    layers = [layer for layer in _in_order(head) if not isinstance(layer, (nn.Dropout, nn.Identity))]
    linear = [layer for layer in layers[::2] if isinstance(layer, nn.Linear)]
    between = [layer for layer in layers[1::2] if isinstance(layer, nn.ReLU)]
    chained = all(one.out_features == other.in_features for one, other in pairwise(linear))
    if not chained or len(layers) % 2 == 0 or 2 * len(linear) - 1 != len(layers) or len(between) != len(linear) - 1:
        raise IbrobustError(
            f"The head {type(head).__name__} cannot be stored, since it is not made of linear layers with ReLU between "
            "them (dropout and DropConnect may be among them): give the objective such a head, or none and choose a "
            "fitted decoder."
        )
    plain = [_plain(layer) for layer in linear]
    stored: nn.Linear | MLPHead = plain[0]
    if len(plain) > 1:
        stored = MLPHead([plain[0].in_features, *(layer.out_features for layer in plain)])
        for index, layer in enumerate(plain):
            stored[2 * index] = layer
    _require_equal(head, stored, plain[0])
    return stored.float()


@torch.no_grad()
def _require_equal(head: nn.Module, stored: nn.Module, first: nn.Linear) -> None:
    latents = torch.randn(8, first.in_features, generator=torch.Generator().manual_seed(0)).to(first.weight)
    training = head.training
    expected = head.eval()(latents)
    head.train(training)
    found = stored(latents)
    if found.shape != expected.shape or (found - expected).abs().max() > 1e-3 * expected.abs().max():
        raise IbrobustError(
            f"The head {type(head).__name__} cannot be stored, since it gives other logits than its linear layers with "
            "ReLU between them (it or a layer computes more than that): give the objective a plain head, or none "
            "and choose a fitted decoder."
        )


def head_for_weights(weights: Mapping[str, Tensor], *, latent_dim: int, num_classes: int) -> nn.Module:
    """Return a head in the size of its stored weights, which are not loaded yet."""
    hidden = sorted((int(key.split(".")[0]), weight) for key, weight in weights.items() if key.endswith(".weight"))
    if not hidden:
        return nn.Linear(latent_dim, num_classes)
    return MLPHead([latent_dim, *(weight.shape[0] for _, weight in hidden)])


def _in_order(head: nn.Module) -> Iterator[nn.Module]:
    if isinstance(head, nn.Sequential):
        for part in head:
            yield from _in_order(part)
    else:
        yield head


def _plain(source: nn.Linear) -> nn.Linear:
    scale = 1.0 - source.rate if isinstance(source, DropConnectLinear) else 1.0
    plain = nn.Linear(source.in_features, source.out_features).to(source.weight)
    with torch.no_grad():
        plain.weight.copy_(scale * source.weight)
        plain.bias.copy_(source.bias) if source.bias is not None else plain.bias.zero_()
    return plain
