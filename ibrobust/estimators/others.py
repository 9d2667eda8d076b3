"""Which points of a batch and a memory are others of a point of the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def other_points(labels: Tensor, their_labels: Tensor) -> Tensor:
    """Return whether point j is another than point i of the batch, (N, N + M) bool.

    Args:
        labels: (N,) of the batch.
        their_labels: (N + M,) of the batch and the memory; a negative label of the memory is that of an empty place.
    """
    count = len(labels)
    others = torch.ones(count, len(their_labels), dtype=torch.bool, device=labels.device)
    others[:, count:] = their_labels[count:] >= 0
    others.diagonal().fill_(False)
    return others


def of_other_images(others: Tensor, images: Tensor | None) -> Tensor:
    """Return which of the others (N, N + M) are of another image than the point; all of them without `images`.

    A copy is much nearer than any other image, so that an entropy would be far too small.

    Args:
        others: (N, N + M) bool.
        images: (N + M,) integers, the image that each point is of.
    """
    return others if images is None else others & (images[: len(others), None] != images)
