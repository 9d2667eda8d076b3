"""A tensor's values with the gradient of another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Replaced(torch.autograd.Function):
    generate_vmap_rule = True  # a model may map over its images

    @staticmethod
    def forward(value: Tensor, smooth: Tensor) -> Tensor:
        del smooth
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        del ctx
        return None, gradients[0]


def with_gradient_of(value: Tensor, smooth: Tensor) -> Tensor:
    """Return `value`, bit for bit, with the gradient of `smooth`, of the same shape and dtype."""
    replaced: Tensor = _Replaced.apply(value.detach(), smooth)
    return replaced
