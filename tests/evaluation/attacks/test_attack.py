"""Attacks as objects: any of them runs itself on a batch, with one calling convention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ibrobust
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.by_name import read_attack

EPSILON = 0.1


class Brightness(nn.Module):
    """Images (B, 1, 2, 2) -> two logits: the mean brightness less 0.5, and its negative."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Parameter(torch.tensor(0.5))

    def forward(self, images):
        score = images.flatten(1).mean(dim=1) - self.middle
        return torch.stack([score, -score], dim=1)


IMAGES = torch.tensor([0.55, 0.45, 0.8]).view(3, 1, 1, 1).expand(3, 1, 2, 2).clone()
LABELS = torch.tensor([0, 1, 0])


def darken(model, images, labels, *, epsilon, seed):
    return (images - epsilon).clamp(0, 1)


ATTACKS = {
    "FGSM": ibrobust.FGSM(),
    "PGD": ibrobust.PGD(steps=5),
    "AutoAttack": ibrobust.AutoAttack(n_iter=3, n_queries=5),
    "WorstCase": ibrobust.WorstCase(),
    "torchattacks": ibrobust.create_attack("BIM", steps=10),
    "foolbox": ibrobust.create_attack("foolbox:LinfPGD", abs_stepsize=0.03),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_runs_itself_on_a_batch(attack):
    model = Brightness().train()
    with torch.no_grad():  # of a caller's
        adversarial = attack(model, IMAGES.numpy(), LABELS.tolist(), epsilon="1/10", seed=3)
        broken = model(adversarial).argmax(dim=1) != LABELS
    assert broken.tolist() == [True, True, False]
    assert float((adversarial - IMAGES).abs().max()) <= EPSILON + 1e-6
    assert model.training
    assert model.middle.grad is None


def test_a_function_becomes_such_an_attack():
    adversarial = read_attack(darken)(Brightness(), IMAGES, LABELS, epsilon=EPSILON)
    torch.testing.assert_close(adversarial, IMAGES - EPSILON)


@pytest.mark.parametrize("attack", [ibrobust.PGD(steps=2, alpha=0.001), ibrobust.create_attack("RFGSM", steps=1)])
def test_the_seed_fixes_the_images(attack):
    def run(seed):
        return attack(Brightness(), IMAGES, LABELS, epsilon=0.01, seed=seed)

    torch.manual_seed(1)
    first = run(3)
    torch.manual_seed(2)
    assert torch.equal(run(3), first)
    assert not torch.equal(run(4), first)


def test_objects_names_and_functions_in_one_run():
    results = ibrobust.run_attacks(
        Brightness(), IMAGES, LABELS, attacks=[ibrobust.PGD(steps=2, norm="L2"), "FGSM", darken], epsilons=EPSILON
    )
    assert [result.attack for result in results][:2] == ["PGD:norm=L2,steps=2", "FGSM"]
    assert [result.norm for result in results] == ["L2", "Linf", "Linf"]


def test_an_object_gives_the_numbers_of_its_text(robust_model, test_data):
    def run(attack):
        return ibrobust.run_attacks(robust_model, *test_data, attacks=attack, epsilons=EPSILON)

    assert run(ibrobust.PGD(random_start=True, steps=2)) == run("PGD:steps=2,random_start=true")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"epsilon": 2.0}, "epsilon 2"), ({"seed": -1}, "seed is"), ({"images": IMAGES + 1}, "range from")],
)
def test_what_cannot_be_attacked_is_one_sentence(changes, message):
    arguments = {"images": IMAGES, "labels": LABELS, "epsilon": EPSILON, **changes}
    with pytest.raises(IbrobustError, match=message):
        ibrobust.PGD()(Brightness(), **arguments)


def test_too_few_classes_are_refused_before_the_work():
    with pytest.raises(IbrobustError, match="APGDT needs 4 classes"):
        ibrobust.create_attack("APGDT")(Brightness(), IMAGES, LABELS, epsilon=EPSILON)
