"""Convolutions in bfloat16: their gradients against autograd's, and the fused ones against the plain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.evaluation.bfloat16 import convolution as bfloat16_convolution
from ibrobust.evaluation.bfloat16.convolution import BFloat16Convolution, fused_convolutions_work


def _convolution(dtype: torch.dtype, *, stride: int = 1, groups: int = 1, relu: bool = True) -> BFloat16Convolution:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = BFloat16Convolution(nn.Conv2d(8, 16, 3, stride=stride, padding=1, groups=groups))
    conv.relu, conv.dtype = relu, dtype
    conv.round()
    return conv


def _inputs(dtype: torch.dtype, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 6, 6, generator=generator).to(dtype, memory_format=torch.channels_last)
    other = torch.randn(2, 16, size, size, generator=generator).to(dtype, memory_format=torch.channels_last)
    return x.requires_grad_(), other.requires_grad_()


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_gradients_are_those_of_finite_differences(
    stride: int, groups: int, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16_convolution, "fused_convolutions_work", lambda: False)  # they know no float64
    conv = _convolution(torch.float64, stride=stride, groups=groups, relu=relu)
    x, other = _inputs(torch.float64, 6 // stride)
    apply = bfloat16_convolution._WithInputGradients.apply
    assert torch.autograd.gradcheck(lambda a: apply(a, None, conv), (x,))
    assert torch.autograd.gradcheck(lambda a, b: apply(a, b, conv), (x, other))


@pytest.mark.skipif(not fused_convolutions_work(), reason="this PyTorch has no convolutions with ReLU built in")
@pytest.mark.parametrize("summed", [True, False])
def test_the_fused_convolution_is_the_plain_one(summed: bool) -> None:
    conv = _convolution(torch.bfloat16)
    x, other = _inputs(torch.bfloat16, 6)
    out = conv(x, other if summed else None)
    plain = F.conv2d(x.float(), conv.weight.float(), conv.bias.float(), padding=1)
    plain = F.relu(plain + other.float() if summed else plain)
    torch.testing.assert_close(out.float(), plain, atol=0.03, rtol=0.01)
    wanted = [x, other] if summed else [x]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((out.float() * weights).sum(), wanted)
    expected = torch.autograd.grad((plain * weights).sum(), wanted)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.02)
