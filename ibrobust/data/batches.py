"""The images of each batch of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError


def shuffled_batches(labels: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Return (num_batches, batch_size) int64 indices: a random order of all images, without the incomplete last batch.

    Args:
        labels: (N,) int64.
        batch_size: images per batch.
        generator: CPU generator that decides the order.
    """
    check_batch_size(len(labels), batch_size)
    order = torch.randperm(len(labels), generator=generator)
    return order[: len(order) // batch_size * batch_size].view(-1, batch_size)


def balanced_batches(labels: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Return (num_batches, batch_size) int64 indices; in a batch the classes' numbers of images differ by at most one.

    The epoch has N // batch_size batches. If batch_size is not a multiple of the number of classes C, the remaining
    places go to classes drawn at random, at most one more each, so that every class has at least batch_size // C. Each
    class is used in a random order without repetition; a class smaller than its share starts again, in another order.
    No batch has an image twice unless it has more places for a class than that has images. C counts the classes that
    have images.

    Args:
        labels: (N,) int64.
        batch_size: images per batch, at least C.
        generator: CPU generator that decides the order.
    """
    check_batch_size(len(labels), batch_size)
    classes = labels.unique().tolist()
    num_classes = len(classes)
    num_batches = len(labels) // batch_size
    check_balance(num_classes, batch_size)
    base, extra = divmod(batch_size, num_classes)
    # counts[b, c]: images of class c in batch b
    counts = torch.full((num_batches, num_classes), base)
    if extra:
        ranks = torch.rand(num_batches, num_classes, generator=generator).argsort(dim=1).argsort(dim=1)
        counts += ranks < extra
    columns = []
    for place, label in enumerate(classes):
        columns.append(_in_rounds(torch.nonzero(labels == label).flatten(), counts[:, place].tolist(), generator))
    return torch.stack([torch.cat([column[batch] for column in columns]) for batch in range(num_batches)])


def _in_rounds(members: Tensor, shares: list[int], generator: torch.Generator) -> list[Tensor]:
    """Return a class's images (share,) in each batch: every image once in random order, then again in another order."""
    parts = []
    left = members[:0]
    for share in shares:
        part, left = left[:share], left[share:]
        while len(part) < share:
            order = members[torch.randperm(len(members), generator=generator)]
            used = torch.isin(order, part)
            order = torch.cat([order[~used], order[used]])  # what the batch has already comes last
            missing = share - len(part)
            part, left = torch.cat([part, order[:missing]]), order[missing:]
        parts.append(part)
    return parts


def check_balance(num_classes: int, batch_size: int) -> None:
    """Raise IbrobustError if a balanced batch cannot hold an image of each class."""
    if batch_size < num_classes:
        raise IbrobustError(
            f"A batch of {batch_size} cannot hold an image of each of the {num_classes} classes: raise the batch "
            "size or turn balanced batches off."
        )


def check_batch_size(num_images: int, batch_size: int) -> None:
    """Raise IbrobustError if the data set cannot fill one batch."""
    if batch_size > num_images:
        raise IbrobustError(
            f"The batch size {batch_size} is larger than the training set of {num_images} images: lower it."
        )
