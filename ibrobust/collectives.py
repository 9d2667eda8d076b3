"""A batch that is divided among the processes of one training: its shares put together, and cut out, with gradients.

A batch is divided in order, the same number of images for each process. Every process then computes the same loss L of
the whole batch. Gradients flow back as those of the sum of all P losses, P * L; where parameters are involved,
`DistributedDataParallel` averages over the processes, which makes the gradient of L, the one that a single process has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from ibrobust.processes import count


def gather(share: Tensor) -> Tensor:
    """Return the shares (B / P, ...) of all P processes in their order, the whole batch (B, ...), differentiable."""
    if count() == 1:
        return share
    return _Gather.apply(share)


def own_share(batch: Tensor) -> Tensor:
    """Return the rows of the whole batch (B, ...) that are this process's, (B / P, ...)."""
    processes = count()
    if processes == 1:
        return batch
    rows = len(batch) // processes
    start = rows * distributed.get_rank()
    return batch[start : start + rows]


class _Gather(torch.autograd.Function):
    """The backward pass sums what all processes' losses say about a share."""

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
