"""Convolutions in bfloat16, fused with the batch normalisation, sum and ReLU after them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# A convolution of so few channels, which is that of the image, stays in float32: rounding the image itself makes the
# largest errors, and avoiding it costs little.
FEW_CHANNELS = 4


class BFloat16Convolution(nn.Module):
    """A convolution with bfloat16 output in channels_last; its input is bfloat16 too, unless it has few channels.

    Args:
        conv: with a padding in numbers, of zeros.
        dtype: float32 for the same computation without rounding.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.weight = conv.weight.detach()
        self.bias = None if conv.bias is None else conv.bias.detach()
        assert not isinstance(conv.padding, str)
        self.padding = list(conv.padding)
        self.stride = list(conv.stride)
        self.dilation = list(conv.dilation)
        self.groups = conv.groups
        self.relu = False
        self.dtype = torch.float32 if conv.in_channels <= FEW_CHANNELS else dtype
        self.output_dtype = dtype

    def fold(self, norm: nn.BatchNorm2d) -> None:
        """Fold the next batch normalisation, in evaluation mode, into this convolution."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            self.weight, self.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.weight, self.bias = weight.detach(), bias.detach()

    def round(self) -> None:
        """Round weights and bias to this module's dtype."""
        self.weight = self.weight.to(self.dtype, memory_format=torch.channels_last)
        if self.bias is not None:
            self.bias = self.bias.to(self.dtype)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return (B, D, H', W') in `output_dtype` of (B, C, H, W), plus `other` (B, D, H', W').

        With ReLU it is at least 0. It has gradients in both.
        """
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if other is not None:
            other = other.to(self.dtype)
        out: Tensor = _WithInputGradients.apply(x, other, self)
        return out.to(self.output_dtype)

    def compute(self, x: Tensor, other: Tensor | None) -> Tensor:
        """Return the result of `forward` in this module's dtype, without gradients."""
        geometry = self.padding, self.stride, self.dilation, self.groups
        if x.device.type == "cpu" and fused_convolutions_work():
            if other is None:
                return torch.ops.mkldnn._convolution_pointwise(
                    x, self.weight, self.bias, *geometry, "relu" if self.relu else "none", [], ""
                )
            return torch.ops.mkldnn._convolution_pointwise.binary(
                x, other, self.weight, self.bias, *geometry, "add", 1.0, "relu" if self.relu else None, [], None
            )
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        if other is not None:
            x = x.add_(other)
        return x.relu_() if self.relu else x


class _WithInputGradients(torch.autograd.Function):
    """The gradient in the input and the summand, not in the weights. PyTorch has no gradient of fused convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor | None, conv: BFloat16Convolution) -> Tensor:
        out = conv.compute(x, other)
        ctx.conv, ctx.summed = conv, other is not None
        ctx.save_for_backward(x, out if conv.relu else None)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, out = ctx.saved_tensors
        if out is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        conv: BFloat16Convolution = ctx.conv
        of_input, _, _ = torch.ops.aten.convolution_backward(
            gradient, x, conv.weight, None, conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups,
            [True, False, False],
        )  # fmt: skip
        return of_input, gradient if ctx.summed else None, None


@cache
def fused_convolutions_work() -> bool:
    """Return whether this PyTorch has convolutions fused with ReLU and sum, which have no public name."""
    x = torch.ones(1, 16, 3, 3, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    weight = -torch.eye(16, dtype=torch.bfloat16)[:, :, None, None].expand(16, 16, 3, 3)
    weight = weight.contiguous(memory_format=torch.channels_last)
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    try:
        alone = torch.ops.mkldnn._convolution_pointwise(x, weight, None, *geometry, "relu", [], "")
        added = torch.ops.mkldnn._convolution_pointwise.binary(
            x, 7 * x, weight, None, *geometry, "add", 1.0, "relu", [], None
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
    # 7 less the neighbours that a pixel has, with itself.
    return not bool(alone.any()) and added[0].flatten(1).tolist() == 16 * [[3, 1, 3, 1, 0, 1, 3, 1, 3]]
