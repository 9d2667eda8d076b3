"""Encoder and decoder as one module: what other packages need of its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.fx
from torch import nn

from ibrobust.evaluation.bfloat16.copy import low_precision_copy
from ibrobust.models import Encoder, ImageClassifier, SampledClassifier

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2])


@pytest.fixture(params=[ImageClassifier, SampledClassifier])
def model(request) -> ImageClassifier:
    torch.manual_seed(0)
    decoder = nn.Linear(4 if request.param is ImageClassifier else 2, 5)
    return request.param(Encoder(width=4, latent_dim=4), decoder).eval().to(memory_format=torch.channels_last)


def test_the_gradient_is_contiguous_and_the_same(model):
    points = IMAGES.clone().requires_grad_()
    for _ in range(2):  # a hook that stayed on the images would be called twice
        logits = model(points)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, LABELS), points)
        assert gradient.is_contiguous()
    model.to(memory_format=torch.contiguous_format)
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(model(points), LABELS), points)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), logits)


def test_pgd_of_torchattacks_in_l2_runs_on_it(model):
    torchattacks = pytest.importorskip("torchattacks")
    moved = torchattacks.PGDL2(model, eps=0.5, alpha=0.5, steps=2, random_start=False)(IMAGES, LABELS) - IMAGES
    assert 0 < moved.flatten(1).norm(dim=1).max() < 0.501


@pytest.mark.parametrize("model", [ImageClassifier], indirect=True)
def test_torch_fx_follows_it(model):
    traced = torch.fx.symbolic_trace(model)
    points = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(traced(points)[:, 0].sum(), points)
    assert gradient.is_contiguous()
    assert low_precision_copy(model, IMAGES[:1]) is not None


def test_torch_func_takes_its_gradient(model):
    points = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(points)[:, 0].sum(), points)
    assert torch.equal(torch.func.grad(lambda images: model(images)[:, 0].sum())(IMAGES), expected)
