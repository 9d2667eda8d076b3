"""Transfer attacks: made on another model, tried on the model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ibrobust
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.by_name import read_attack


class Brightness(nn.Module):
    """Images (B, 1, 2, 2) -> two logits: the mean brightness less a threshold, and its negative."""

    def __init__(self, sign=1.0, threshold=0.5):
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(sign))
        self.threshold = threshold

    def forward(self, images):
        score = self.sign * (images.flatten(1).mean(dim=1) - self.threshold)
        return torch.stack([score, -score], dim=1)


class Masked(Brightness):
    """The same predictions without a gradient."""

    def forward(self, images):
        return super().forward(images).sign()


IMAGES = torch.tensor([0.55, 0.45, 0.8]).view(3, 1, 1, 1).expand(3, 1, 2, 2).clone()
LABELS = torch.tensor([0, 1, 0])


def robust(model, *attacks, **options):
    results = ibrobust.run_attacks(model, IMAGES, LABELS, attacks=attacks, epsilons=0.1, **options)
    return [result.robust_correct for result in results]


def test_it_breaks_a_model_without_a_gradient_through_one_that_has_one():
    transfer = ibrobust.Transfer(surrogate=Brightness())
    assert robust(Masked(), ibrobust.PGD(random_start=False), transfer) == [(True,) * 3, (False, False, True)]


def test_the_model_and_not_the_surrogate_is_judged():
    """On the surrogate all labels are wrong from the start, and its images go the wrong way."""
    transfer = ibrobust.Transfer(surrogate=Brightness(-1.0))
    assert robust(Brightness(), transfer) == [(True, True, True)]


def test_it_goes_on_beyond_the_boundary_of_the_surrogate():
    """The surrogate breaks below 0.5, the model only below 0.47, and the ball reaches down to 0.45."""
    transfer = ibrobust.Transfer(surrogate=Brightness(), steps=20, random_start=False)
    (found,) = ibrobust.run_attacks(Brightness(threshold=0.47), IMAGES[:1], LABELS[:1], attacks=transfer, epsilons=0.1)
    assert found.robust_correct == (False,)


def test_it_starts_again_for_images_that_the_model_still_gets_right():
    """The surrogate breaks to both sides of grey, the model only to the dark one, which half of the starts reach."""

    class BothSides(nn.Module):
        def forward(self, images):
            away = (images.flatten(1).mean(dim=1, keepdim=True) - 0.5).abs()
            return torch.cat([0.01 - away, away - 0.01], dim=1)

    transfer = ibrobust.Transfer(surrogate=BothSides(), steps=5, restarts=30)
    grey, labels = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.long)
    (found,) = ibrobust.run_attacks(Brightness(threshold=0.45), grey, labels, attacks=transfer, epsilons=0.1)
    assert found.robust_accuracy == 0.0


def test_no_gradient_of_the_model_is_asked_for():
    class NoGradient(Brightness):
        def forward(self, images):
            assert not images.requires_grad
            return super().forward(images)

    assert robust(NoGradient(), ibrobust.Transfer(surrogate=Brightness())) == [(False, False, True)]


def test_the_surrogate_is_as_before():
    surrogate = Brightness().train()
    robust(Brightness(), ibrobust.Transfer(surrogate=surrogate))
    assert surrogate.training
    assert surrogate.sign.requires_grad
    assert surrogate.sign.grad is None


def test_the_surrogate_is_attacked_in_evaluation_mode():
    """In training mode, batch normalisation gives each image another score, and changes what the module stores."""
    surrogate = nn.Sequential(nn.BatchNorm2d(1), Brightness()).train()
    surrogate[0].running_mean.fill_(0.25)
    before = surrogate[0].running_mean.clone()
    modes = []
    surrogate[0].register_forward_hook(lambda module, *_: modes.append(module.training))
    robust(Brightness(), ibrobust.Transfer(surrogate=surrogate))
    assert set(modes) == {False}
    assert torch.equal(surrogate[0].running_mean, before)
    assert surrogate[0].training


def test_its_text_and_its_label():
    attack = read_attack("transfer:my-model:steps=5,norm=L2")
    assert attack == ibrobust.Transfer(surrogate="my-model", norm="L2", steps=5)
    assert attack.label == "transfer:my-model:norm=L2,steps=5"
    assert read_attack(attack.label) == attack
    assert ibrobust.Transfer(surrogate=Brightness()).label == "transfer:Brightness"


def test_a_state_is_not_resumed_with_another_surrogate(tmp_path):
    def run(sign):
        return robust(Brightness(), ibrobust.Transfer(surrogate=Brightness(sign)), state_path=tmp_path / "state")

    assert run(1.0) == run(1.0)
    with pytest.raises(IbrobustError, match="another evaluation"):
        run(-1.0)


class Edited(Brightness):
    """The same weights, and a setting that begins with an underscore."""

    _scale = 1.0

    def forward(self, images):
        return super().forward(images) * self._scale


@pytest.mark.parametrize("kind", [ibrobust.Transfer, ibrobust.WorstCase])
def test_a_state_is_not_resumed_with_an_edited_surrogate(kind, tmp_path):
    surrogate = Edited()

    def run():
        return robust(Brightness(), kind(surrogate=surrogate), state_path=tmp_path / "state")

    assert run() == run()
    surrogate._scale = -1.0
    with pytest.raises(IbrobustError, match=r"the surrogate of .*Edited.* gave other logits"):
        run()


class Scaled(Brightness):
    """The same weights with a setting that is not in the state dict."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, images):
        return super().forward(images) * self.scale


@pytest.mark.parametrize(
    ("one", "other"),
    [(Scaled(1.0), Scaled(-1.0)), (Brightness(), Masked()), (nn.Sequential(Scaled(1.0)), nn.Sequential(Scaled(2.0)))],
)
def test_a_surrogate_of_the_same_weights_may_be_another_one(one, other, tmp_path):
    def source(model):
        return ibrobust.Transfer(surrogate=model).source

    assert source(one) == source(copy.deepcopy(one)) != source(other)
    assert source(one) == source(copy.deepcopy(one).train(not one.training))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("transfer:other", r"Transfer\(surrogate=ibrobust.load_model\('other'\)\)"),
        ("transfer:other:step=3", "Transfer has no option 'step': did you mean steps"),
        (ibrobust.Transfer, "Transfer needs the option 'surrogate'"),
        ("transfer", "Unknown attack 'transfer'.*transfer:MODEL"),
    ],
)
def test_what_is_missing_is_one_sentence(attack, message):
    with pytest.raises(IbrobustError, match=message):
        robust(Brightness(), attack)


def test_a_surrogate_with_other_classes_is_refused():
    three = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(IbrobustError, match="has 3 classes, but the model has 2: give a surrogate"):
        robust(Brightness(), ibrobust.Transfer(surrogate=three))
