"""Which images stand for all images."""

from __future__ import annotations

import torch
from torch import Tensor


def spread_evenly(labels: Tensor, count: int) -> Tensor:
    """Return (min(N, count),) int64 positions among N images, in order and on the CPU: evenly spaced.

    Image folders are sorted by class, so the first images would be of one class only. Evenly spaced ones are too if the
    labels repeat with the spacing (0, 1, ..., 9, 0, 1, ...). So if the classes' shares differ from those of all images
    by much more than chance explains, the positions are evenly spaced within each class instead.

    Args:
        labels: (N,) integers.
        count: at most so many.
    """
    even = evenly_spaced(len(labels), count)
    if len(even) in (0, len(labels)):
        return even
    _, classes, sizes = labels.cpu().unique(return_inverse=True, return_counts=True)
    expected = sizes.double() * len(even) / len(labels)
    found = classes[even].bincount(minlength=len(sizes))
    # In a random order the sum is about the number of classes. Of 10 classes it exceeds 40 once in 100,000 times.
    if ((found - expected).square() / expected).sum() <= 4 * len(sizes):
        return even
    quotas = expected.long()
    largest_remainders = (quotas - expected).argsort(stable=True)
    quotas[largest_remainders[: len(even) - int(quotas.sum())]] += 1
    members = [(classes == index).nonzero()[:, 0] for index in range(len(sizes))]
    chosen = [own[evenly_spaced(len(own), quota)] for own, quota in zip(members, quotas.tolist(), strict=True)]
    return torch.cat(chosen).sort().values


def evenly_spaced(total: int, count: int, device: torch.device | None = None) -> Tensor:
    """Return (min(total, count),) int64 positions in [0, total), in order and evenly spaced.

    Of n positions in a row, they contain n * count / total, rounded down or up.
    """
    count = min(total, count)
    return torch.arange(count, device=device) * total // max(count, 1)
