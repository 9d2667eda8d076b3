"""How attacks judge a model that draws random numbers."""

from __future__ import annotations

import pytest
import torch
from brightness import NoisyPixel
from torch import Tensor, nn

from ibrobust.evaluation.attacks.over_attacks import worst_case
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.attacks.surrogate import Transfer
from ibrobust.evaluation.logit_distance import ONE_DRAW


class RemembersDraws(nn.Module):
    """Images (B, 1, 1, 2) -> logits (B, 2), with noise of one draw a pass; keeps the draws."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(2)
        self.draws.append(float(noise[0]))
        return images.flatten(1) + 0.3 * noise


@pytest.fixture
def near_the_boundary():
    images = torch.rand(50, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    return images, images.flatten(1).argmax(dim=1)


@pytest.mark.parametrize("attack", ["PGD:steps=3", "PGD:steps=3,random_start=false", "FGSM"])
def test_a_random_model_is_judged_on_draws_that_the_attack_has_not_seen(near_the_boundary, attack):
    model = RemembersDraws()
    run_attacks(model, *near_the_boundary, attacks=attack, epsilons=[0.05])
    assert model.draws.count(model.draws[-1]) == 1


def test_all_attacks_on_a_random_model_have_the_same_images_to_break(near_the_boundary):
    results = run_attacks(
        RemembersDraws(), *near_the_boundary, attacks=["PGD:steps=2", "FGSM"], epsilons=[0.02, 0.05], batch_size=20
    )
    assert len({result.clean_correct for result in results}) == 1
    assert len(worst_case(results)) == 2


BRIGHT = torch.full((60, 1, 1, 1), 0.6), torch.ones(60, dtype=torch.long)


@pytest.mark.parametrize("options", ["", ",restarts=3", ",norm=L2"])
def test_pgd_on_a_random_model_goes_on_after_a_lucky_draw(options):
    """At the far end of the ball the pixel is four standard deviations on the other side."""
    (result,) = run_attacks(NoisyPixel(0.1), *BRIGHT, attacks=f"PGD:steps=20,random_start=false{options}", epsilons=0.5)
    assert result.robust_accuracy == 0


@pytest.mark.parametrize("attack", ["FGSM", "PGD:steps=2", "VANILA", "transfer"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_what_an_attack_on_single_draws_leaves_is_an_upper_bound(attack, noise):
    chosen = Transfer(surrogate=NoisyPixel(0.0)) if attack == "transfer" else attack
    (result,) = run_attacks(NoisyPixel(noise), *BRIGHT, attacks=chosen, epsilons=0.05)
    assert (ONE_DRAW in result.flags) is (noise > 0)
    assert result.upper_bound is (noise > 0)


def test_each_batch_of_a_random_model_is_judged_on_its_own_draws():
    """All images are equal: with the same draws for every batch, all batches would have the same pair of answers."""
    images, labels = torch.full((40, 1, 1, 1), 0.5), torch.zeros(40, dtype=torch.long)
    (result,) = run_attacks(NoisyPixel(1.0), images, labels, attacks="FGSM", epsilons=0.0, batch_size=2)
    assert len(set(zip(result.clean_correct[::2], result.clean_correct[1::2], strict=True))) > 1
