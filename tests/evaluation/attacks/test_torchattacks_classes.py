"""torchattacks' classes on the models and images that they were not written for, and what they must not give back."""

from __future__ import annotations

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Attack
from ibrobust.evaluation.attacks.batch import attack_batch
from ibrobust.evaluation.attacks.by_name import create_attack, read_attack
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.attacks.text_form import list_attacks

Data = tuple[Tensor, Tensor]
EPSILON = 0.1
FEW = {
    "steps": 2, "n_queries": 4, "nb_sample": 2, "max_iterations": 10, "binary_search_steps": 1, "popsize": 2,
    "restarts": 1, "num_iter_set": 2, "noise_batch_size": 2, "gamma": 0.02, "n_iter": 2,
}  # fmt: skip
NEEDS = {"APGDT": "needs 4 classes", **dict.fromkeys(("PIFGSM", "PIFGSMPP", "TIFGSM"), "3 channels, but these have 1")}


def short(name: str) -> Attack:
    known = type(create_attack(name)).model_fields
    return create_attack(name, **{key: value for key, value in FEW.items() if key in known})


def small_net(*, channels: int = 3, classes: int = 10) -> tuple[nn.Module, Data]:
    """A convolution on 8 x 8 images, like scikit-learn's digits, and images that it has right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, classes)
        model = nn.Sequential(*layers).eval()
        images = torch.rand(3, channels, 8, 8)
    with torch.no_grad():
        return model, (images, model(images).argmax(dim=1))


def run(model: nn.Module, data: Data, spec: Attack | str) -> AttackResult:
    (result,) = run_attacks(model, *data, attacks=[spec], epsilons=[EPSILON])
    return result


# SparseFool passes a tensor where NumPy 2 wants another signature.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.mark.parametrize("name", list_attacks())
def test_every_attack_takes_a_model_in_channels_last(name: str) -> None:
    model, data = small_net()
    result = run(model.to(memory_format=torch.channels_last), data, short(name))
    assert result.clean_accuracy == 1


@pytest.mark.parametrize("name", ["PGDL2", "SparseFool"])
def test_the_memory_format_changes_no_image(name: str) -> None:
    model, data = small_net()
    expected, _ = attack_batch(model, *data, short(name), epsilon=EPSILON, seed=0)
    for images in (data[0], data[0].to(memory_format=torch.channels_last)):
        model.to(memory_format=torch.channels_last)
        found, _ = attack_batch(model, images, data[1], short(name), epsilon=EPSILON, seed=0)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert not torch.equal(found, images)


@pytest.mark.parametrize("name", list_attacks())
def test_two_classes_and_one_channel_are_attacked_or_refused_before_the_work(name: str) -> None:
    model, data = small_net(channels=1, classes=2)
    if name not in NEEDS:
        assert run(model, data, short(name)).clean_accuracy == 1
        return
    done: list[int] = []
    with pytest.raises(IbrobustError, match=f"{name}.*{NEEDS[name]}.*leave this attack out"):
        run_attacks(model, *data, attacks=["FGSM", short(name)], epsilons=[EPSILON], progress=lambda *_: done.append(1))
    assert not done


@pytest.mark.parametrize("attack", ["APGD:loss=dlr", "UPGD:loss=dlr"])
def test_the_dlr_loss_needs_three_classes(attack: str) -> None:
    with pytest.raises(IbrobustError, match="needs 3 classes, but the model has 2"):
        run(*small_net(classes=2), attack)


@pytest.mark.parametrize("attack", ["DIFGSM:resize_rate=2", "TIFGSM:resize_rate=1"])
def test_what_fails_within_torchattacks_is_one_sentence(attack: str) -> None:
    with pytest.raises(IbrobustError, match=rf"cannot run {attack}.* \(.*\): correct its options, or leave"):
        run(*small_net(), attack)


def test_images_are_resized_where_the_model_takes_other_sizes() -> None:
    model, data = small_net()
    any_size = nn.Sequential(model[:2], nn.AdaptiveAvgPool2d(8), model[2:])
    assert run(any_size, data, "DIFGSM:resize_rate=2,steps=2").clean_accuracy == 1


class Returning(torchattacks.BIM):
    """Asks the model once, as an attack does, and gives back what the test says."""

    result: Tensor

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        images = images.clone().requires_grad_()
        self.get_logits(images).sum().backward()
        return self.result


def test_pixels_that_are_no_numbers_are_an_error_where_the_model_is_not_to_blame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data = small_net()
    Returning.result = data[0].clone()
    Returning.result[1, 0, 0, 0] = float("nan")
    monkeypatch.setattr(torchattacks, "BIM", Returning)
    with pytest.raises(IbrobustError, match="BIM gave NaN or infinite pixels for 1 images"):
        run(model, data, "BIM")


def test_a_result_of_another_shape_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = small_net()
    Returning.result = data[0][:1]  # would be broadcast
    monkeypatch.setattr(torchattacks, "BIM", Returning)
    with pytest.raises(IbrobustError, match=r"BIM gave images of shape \(1, 3, 8, 8\) for \(3, 3, 8, 8\)"):
        run(model, data, "BIM")


class Flat(nn.Module):
    """Always the first class, whatever the image; its gradient is zero."""

    def forward(self, images: Tensor) -> Tensor:
        flat = torch.relu(images.flatten(1).mean(dim=1) - 2.0)
        return torch.stack([flat + 1.0, flat], dim=1)


@pytest.mark.parametrize(
    "attack", ["DeepFool", "SparseFool", "MIFGSM", "NIFGSM", "DIFGSM", "SINIFGSM", "VMIFGSM", "UPGD"]
)
def test_an_attack_that_divides_by_a_zero_gradient_breaks_nothing(attack: str) -> None:
    """Their step is 0 / 0 there; FGSM leaves such an image as it is."""
    data = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.long)
    result = run(Flat(), data, f"{attack}:steps=2")
    assert result.accuracy_under_attack == 1
    assert result.nonfinite_gradient == 0


def test_a_gradient_that_is_no_number_on_the_way_is_the_models() -> None:
    """Finite at the images themselves, so that only the attack's own steps see it."""

    model, (images, labels) = small_net()

    class NaNAway(nn.Module):
        def forward(self, moved: Tensor) -> Tensor:
            logits: Tensor = model(moved)
            if logits.requires_grad and not torch.equal(moved, images):
                logits.register_hook(lambda gradient: gradient * float("nan"))
            return logits

    assert run(NaNAway(), (images, labels), "BIM:steps=1").nonfinite_gradient == 0
    assert run(NaNAway(), (images, labels), "BIM:steps=2").nonfinite_gradient == len(images)


def test_the_model_stays_in_evaluation_mode() -> None:
    model, data = small_net()
    attack_batch(model, *data, read_attack("BIM:steps=1"), epsilon=EPSILON, seed=0)
    assert not any(module.training for module in model.modules())
