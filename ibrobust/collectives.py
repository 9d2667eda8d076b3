"""Gathering the shares of a batch from the processes of one training, and cutting them out, with gradients.

A batch is divided in order, the same number of images for each process. Every process then computes the same loss L of
the whole batch. Gradients flow back as those of the sum of all P losses, P * L; for parameters,
`DistributedDataParallel` averages over the processes, which gives the gradient of L, as in a single process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from ibrobust.processes import count


def gather(share: Tensor) -> Tensor:
    """Return the whole batch (B, ...), joined from the shares (B / P, ...) of all P processes, differentiable."""
    if count() == 1:
        return share
    return _Gather.apply(share)


def own_share(batch: Tensor) -> Tensor:
    """Return this process's rows (B / P, ...) of the whole batch (B, ...)."""
    processes = count()
    if processes == 1:
        return batch
    rows = len(batch) // processes
    start = rows * distributed.get_rank()
    return batch[start : start + rows]


class _Gather(torch.autograd.Function):
    """The backward pass sums the gradients of a share over the losses of all processes."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:  # noqa: ARG004
        shares = [torch.empty_like(share, memory_format=torch.contiguous_format) for _ in range(count())]
        distributed.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return own_share(total)
