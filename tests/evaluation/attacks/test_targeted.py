"""PGD towards target classes: against torchattacks' targeted mode, and on a model where the way there is known."""

from __future__ import annotations

import pytest
import torch
import torchattacks
from torch import nn

import ibrobust
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.pgd import pgd


def test_the_last_iterate_equals_that_of_torchattacks_towards_the_least_likely_class(robust_model, test_data):
    images, labels = test_data[0][:40], test_data[1][:40]
    peer = torchattacks.PGD(robust_model, eps=0.05, alpha=0.02, steps=7, random_start=False)
    peer.set_mode_targeted_least_likely(kth_min=1, quiet=True)
    with torch.no_grad():
        targets = robust_model(images).argmin(dim=1)
    run = pgd(
        robust_model, images, labels, epsilon=0.05, steps=7, step_size=0.02, targets=targets, stop_when_broken=False
    )
    torch.testing.assert_close(run.last, peer(images, labels), rtol=0, atol=2e-7)


class Ramps(nn.Module):
    """Images (B, 1, 1, 4) -> four logits: 1 for class 0, and for the others a ramp along their own pixel.

    At the pixel 0.5, class 1 has the second logit and hardly rises; class 3 has the lowest one and rises steeply. It
    alone can be reached within 0.1.
    """

    def forward(self, images):
        x = images.flatten(1) - 0.5
        one = torch.ones_like(x[:, 0])
        return torch.stack([one, 0.9 + 0.01 * x[:, 1], 0.5 + x[:, 2], 0.1 + 10 * x[:, 3]], dim=1)


IMAGES = torch.full((6, 1, 1, 4), 0.5)
LABELS = torch.zeros(6, dtype=torch.long)


@pytest.mark.parametrize(("rule", "robust"), [("second", True), ("least_likely", False), ("all", False), (None, True)])
def test_the_class_that_can_be_reached_has_to_be_aimed_at(rule, robust):
    attack = ibrobust.PGD(steps=10, loss="margin", targets=rule, random_start=False)
    (result,) = ibrobust.run_attacks(Ramps(), IMAGES, LABELS, attacks=attack, epsilons=0.1)
    assert set(result.robust_correct) == {robust}


@pytest.mark.parametrize("rule", ["second", "least_likely", "random", "all"])
def test_the_rules_choose_the_classes_that_they_name(rule, monkeypatch):
    aimed = []

    def watched(model, images, labels, *, targets, **options):
        aimed.append(targets.tolist())
        return pgd(model, images, labels, targets=targets, **options)

    monkeypatch.setattr("ibrobust.evaluation.attacks.pgd.pgd", watched)
    attack = ibrobust.PGD(steps=1, targets=rule)
    for _ in range(2):
        attack(Ramps(), IMAGES, LABELS, epsilon=0.001, seed=5)
    half = len(aimed) // 2
    assert aimed[:half] == aimed[half:]
    if rule == "random":
        assert set(aimed[0]) <= {1, 2, 3}
        assert len(set(aimed[0])) > 1
    else:
        classes = {"second": [1], "least_likely": [3], "all": [1, 2, 3]}[rule]
        assert aimed[:half] == [[number] * 6 for number in classes]


def test_another_class_than_the_target_counts_as_well():
    class Trap(nn.Module):
        """The way to class 2 leads through class 1."""

        def forward(self, images):
            x = images.flatten(1).mean(dim=1) - 0.5
            return torch.stack([0.05 - x, 0.2 * x + 0.02, x - 1], dim=1)

    attack = ibrobust.PGD(steps=10, loss="margin", targets="least_likely", random_start=False)
    adversarial = attack(Trap(), IMAGES, LABELS, epsilon=0.1)
    assert set(Trap()(adversarial).argmax(dim=1).tolist()) == {1}
    (result,) = ibrobust.run_attacks(Trap(), IMAGES, LABELS, attacks=attack, epsilons=0.1)
    assert not any(result.robust_correct)


def test_two_classes_have_one_target(plain_model, test_data):
    class Two(nn.Module):
        def forward(self, images):
            return plain_model(images)[:, :2]

    images, labels = test_data[0][:20], test_data[1][:20] % 2

    def broken(rule):
        attack = ibrobust.PGD(steps=3, loss="margin", targets=rule)
        return attack(Two(), images, labels, epsilon=0.05, seed=1)

    assert all(torch.equal(broken(rule), broken(None)) for rule in ("second", "least_likely", "all"))


def test_an_unknown_rule_is_one_sentence():
    with pytest.raises(IbrobustError, match="PGD has no targets 'third': choose second or least_likely or random or"):
        ibrobust.create_attack("PGD", targets="third")
