"""Evaluations compute in float32, also on GPUs that round to TF32 by default, and with torch's faster settings."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from ibrobust.estimators.soft_entropy import soft_entropies
from ibrobust.evaluation.model_state import evaluation_mode
from ibrobust.full_precision import full_precision
from ibrobust.models import encode_in_batches

MIXED = """
import torch
from ibrobust.full_precision import full_precision
torch.backends.cudnn.conv.fp32_precision = "tf32"
torch.backends.cudnn.rnn.fp32_precision = "ieee"
torch.backends.mkldnn.matmul.fp32_precision = "bf16"
with full_precision():
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
assert torch.backends.cudnn.conv.fp32_precision == "tf32"
assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
"""


@pytest.fixture(params=["highest", "high", "medium"])
def products(request):
    """What a user allows for products of matrices; medium means bfloat16 on some CPUs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("convolutions", [True, False])
def test_the_switches_are_off_in_the_block_and_as_before_after_it(products, convolutions):
    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.allow_tf32
    try:
        cudnn.allow_tf32 = convolutions
        with evaluation_mode(nn.Linear(2, 2)), full_precision():
            assert (torch.get_float32_matmul_precision(), cudnn.allow_tf32) == ("highest", False)
        assert (torch.get_float32_matmul_precision(), cudnn.allow_tf32) == (products, convolutions)
    finally:
        cudnn.allow_tf32 = before


def test_the_switches_stay_off_until_the_last_of_several_threads_has_ended(products):
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with full_precision():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with full_precision():
        thread.start()
        entered.wait()
    assert torch.get_float32_matmul_precision() == "highest", "the other thread still computes"
    leave.set()
    thread.join()
    assert torch.get_float32_matmul_precision() == products


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has no names for precisions")
def test_a_precision_that_was_set_by_its_name_is_respected_as_well():
    # In a process of its own: torch cannot undo this.
    subprocess.run([sys.executable, "-c", MIXED], check=True)


def test_latents_do_not_depend_on_the_callers_autocast():
    torch.manual_seed(0)
    layer, images = nn.Linear(64, 8).requires_grad_(False), torch.rand(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = encode_in_batches(layer, iter([images]))
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    assert torch.equal(found, encode_in_batches(layer, iter([images])))


def test_latents_do_not_depend_on_what_is_allowed_for_products(products):
    torch.manual_seed(0)
    layer, images = nn.Linear(1024, 64).requires_grad_(False), torch.rand(64, 1024)
    exact = torch.nn.functional.linear(images.double(), layer.weight.double(), layer.bias.double())
    found = encode_in_batches(layer, iter([images])).double()
    assert float((found - exact).norm() / exact.norm()) < 1e-5


def test_neither_do_the_entropies_of_narrow_clusters_and_their_gradient(products):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    z = torch.randn(10, 128, generator=generator)[labels] + 0.02 * torch.randn(200, 128, generator=generator)
    gradients = []
    for points in (z.requires_grad_(), z.detach().double().requires_grad_()):
        within, overall = soft_entropies(points, labels, sharpness=2.0, class_sharpness=0.5)
        (gradient,) = torch.autograd.grad(within - overall, points)
        gradients.append((within.detach().double(), gradient.double()))
    assert float(gradients[0][0]) == pytest.approx(float(gradients[1][0]), abs=0.05)
    assert float(nn.functional.cosine_similarity(*(gradient.flatten() for _, gradient in gradients), dim=0)) > 0.999


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
