"""PGD, AutoAttack and the worst case as specs, in L2."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.pgd import pgd
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.ball import Ball

QUICK = {
    "PGD": "PGD:norm=L2,steps=20",
    "AutoAttack": "AutoAttack:n_iter=5,n_queries=10,norm=L2",
    "WorstCase": "worst_case:norm=L2",
}


def _linear_model() -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a linear model, images, labels, and their exact L2 distances from the other class."""
    generator = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(30, 3, 32, 32, generator=generator)
    head = nn.Linear(3072, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(2, 3072, generator=generator) / 8)
        logits = head(images.flatten(1))
    distances = (logits[:, 0] - logits[:, 1]).abs() / (head.weight[0] - head.weight[1]).norm().detach()
    return nn.Sequential(nn.Flatten(), head), images, logits.argmax(dim=1), distances


@pytest.mark.parametrize("name", QUICK)
def test_a_linear_model_falls_where_its_l2_distance_is_clearly_below_epsilon_and_nowhere_above(name):
    model, images, labels, distances = _linear_model()
    epsilon = float(distances.median()) * 1.2
    spec = read_attack(QUICK[name])
    (result,) = run_attacks(model, images, labels, attacks=[spec], epsilons=[epsilon])
    assert (spec.name, result.norm) == (name, "L2")
    robust = torch.tensor(result.robust_correct)
    assert bool(robust[distances > epsilon].all())
    assert not bool(robust[distances < 0.8 * epsilon].any())


def test_pgd_starts_and_stays_in_the_l2_ball():
    model, images, labels, _ = _linear_model()
    start = Ball("L2", 0.5).random_point(images, torch.Generator().manual_seed(0))
    run = pgd(model, images, labels, epsilon=0.5, steps=3, start=start, norm="L2", stop_when_broken=False)
    for points in (start, run.last, run.adversarial):
        assert float((points - images).flatten(1).norm(dim=1).max()) <= 0.5 + 1e-6


@pytest.mark.parametrize("name", ["PGD", "AutoAttack", "worst_case"])
def test_a_norm_that_is_not_there_is_named(name):
    with pytest.raises(IbrobustError, match="has no norm 'L1': .*Linf or L2"):
        read_attack(f"{name}:norm=L1")
