"""torch's default dtype changes no number, and the model keeps it while a library attacks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.worst_case_attack.boundary import follow_boundary
from ibrobust.full_precision import default_dtype

IMAGES = torch.rand(6, 3, 10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
LABELS = torch.arange(6) % 5


class WithDefaultDtype(nn.Module):
    """A linear model that needs a certain default dtype in its forward pass."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        weight = torch.randn(300, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float32) / 8
        weight[:, 0] += 0.05
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        assert torch.get_default_dtype() == self.dtype
        return images.flatten(1) @ self.weight


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("attack", ["AutoAttack:n_iter=3,n_queries=20,norm={}", "WorstCase:norm={}"])
def test_results_are_the_same_with_another_default_dtype(attack, norm):
    found = []
    labels = WithDefaultDtype(torch.get_default_dtype())(IMAGES).argmax(dim=1)
    for dtype in (torch.float32, torch.float64):
        with default_dtype(dtype):
            epsilon = 0.01 if norm == "Linf" else 0.05
            model = WithDefaultDtype(dtype)
            found += run_attacks(model, IMAGES, labels, attacks=attack.format(norm), epsilons=epsilon)
    assert found[0] == found[1]
    assert any(found[0].robust_correct)


@pytest.mark.parametrize("attack", ["Square:n_queries=20", "FAB:steps=3", "APGD:steps=3"])
def test_torchattacks_give_the_same_with_another_default_dtype(attack):
    pytest.importorskip("torchattacks")
    found = []
    for dtype in (torch.float32, torch.float64):
        with default_dtype(dtype):
            found += run_attacks(WithDefaultDtype(dtype), IMAGES, LABELS, attacks=attack, epsilons=0.05)
    assert found[0] == found[1]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_boundary_is_the_same_with_another_default_dtype(norm):
    found = []
    for dtype in (torch.float32, torch.float64):
        with default_dtype(dtype):
            model = guard(WithDefaultDtype(dtype))
            labels = model(IMAGES).argmax(dim=1)
            targets = (labels + 1) % 5
            found.append(follow_boundary(model, IMAGES, labels, targets, ball=Ball(norm, 0.01), steps=5)[0])
    assert torch.equal(*found)
