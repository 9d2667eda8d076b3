"""Attacks compute in float32 where their images are float32, also on GPUs that round to TF32 by default."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from ibrobust.evaluation.model_state import evaluation_mode, full_precision

MIXED = """
import torch
from ibrobust.evaluation.model_state import full_precision
torch.backends.cudnn.conv.fp32_precision = "tf32"
torch.backends.cudnn.rnn.fp32_precision = "ieee"
with full_precision():
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
assert torch.backends.cudnn.conv.fp32_precision == "tf32"
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_the_switches_are_off_in_the_block_and_as_before_after_it(allowed: bool):
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, products.allow_tf32)
    try:
        cudnn.allow_tf32 = products.allow_tf32 = allowed
        with evaluation_mode(nn.Linear(2, 2)):
            assert (cudnn.allow_tf32, products.allow_tf32) == (False, False)
        assert (cudnn.allow_tf32, products.allow_tf32) == (allowed, allowed)
    finally:
        cudnn.allow_tf32, products.allow_tf32 = before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has no names for precisions")
def test_a_precision_that_was_set_by_its_name_is_respected_as_well():
    # In a process of its own: torch cannot undo this.
    subprocess.run([sys.executable, "-c", MIXED], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only GPUs round to TF32")
def test_a_gpu_gives_the_logits_of_the_cpu():
    torch.manual_seed(0)
    layers = nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64 * 16, 10)
    model = nn.Sequential(*layers).requires_grad_(False)
    images = torch.rand(32, 64, 8, 8)
    exact = model.double()(images.double())
    model.float().cuda()
    with full_precision():
        found = model(images.cuda()).cpu().double()
    assert float((found - exact).norm() / exact.norm()) < 1e-5
