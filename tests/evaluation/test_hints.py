"""Warnings of what is probably a mistake, of every evaluation that has no check of its own for it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from ibrobust import fgsm_sweep, run_attacks, two_logits
from ibrobust.evaluation.predictions import PROBABILITIES, is_distribution

GUESSES = "which is not better than guessing one of 10 classes"


def attacked(model, images, labels):
    run_attacks(model, images, labels, attacks="FGSM", epsilons=0.01)


def swept(model, images, labels):
    fgsm_sweep(model, images, labels, 0.01)


@pytest.mark.parametrize("evaluate", [attacked, swept])
def test_labels_that_are_off_by_one(evaluate, plain_model, test_data):
    images, labels = test_data[0][:300], (test_data[1][:300] + 1) % 10
    with pytest.warns(UserWarning, match=GUESSES) as found:
        evaluate(plain_model, images, labels)
    assert [warning.filename for warning in found] == [__file__]


@pytest.mark.parametrize("evaluate", [attacked, swept])
def test_a_constant_answer_to_unequal_classes(evaluate, test_data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([2.0, 0.0])
    labels = (torch.arange(100) % 10 == 0).long()
    with pytest.warns(UserWarning, match="^90 of 100 images .* not better than guessing"):
        evaluate(model, test_data[0][:100], labels)
    with warnings.catch_warnings():  # the images of one class alone
        warnings.simplefilter("error")
        evaluate(model, test_data[0][:100], torch.zeros(100, dtype=torch.long))


@pytest.mark.parametrize("evaluate", [attacked, swept])
def test_outputs_that_are_probabilities(evaluate, plain_model, test_data):
    model = nn.Sequential(plain_model, nn.Softmax(dim=1))
    with pytest.warns(UserWarning, match="outputs are probabilities.*remove the softmax"):
        evaluate(model, test_data[0][:5], test_data[1][:5])


class _OneOutput(nn.Module):
    """The likelier of two halves of the classes, as one number."""

    def __init__(self, model: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.model, self.last = model, last

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return self.last(logits[:, 5:].amax(dim=1) - logits[:, :5].amax(dim=1))


@pytest.mark.parametrize(("last", "warns"), [(nn.Sigmoid(), True), (nn.Tanh(), False)])
def test_a_single_probability_that_was_taken_for_a_logit(last, warns, plain_model, test_data):
    model = two_logits(_OneOutput(plain_model, last))
    images, labels = test_data[0][:60], (test_data[1][:60] >= 5).long()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        (result,) = run_attacks(model, images, labels, attacks="PGD:steps=2", epsilons=0.05)
    assert any("remove the softmax or sigmoid" in str(warning.message) for warning in found) is warns
    assert (PROBABILITIES in result.flags) is result.upper_bound is warns


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_outputs_that_are_no_numbers(wrong, plain_model, test_data):
    class Broken(nn.Module):
        def forward(self, images):
            return plain_model(images).where(images.mean(dim=(1, 2, 3))[:, None] > 0, wrong)

    images = test_data[0][:30].clone()
    images[:25] = 0
    with pytest.warns(UserWarning, match="^The model gives NaN or infinite logits for 25 of 30 images") as found:
        swept(Broken(), images, test_data[1][:30])
    assert not any("guessing" in str(each.message) for each in found)


@pytest.mark.parametrize("attack", ["sweep", "FGSM", "worst_case"])
def test_under_outputs_that_are_probabilities_a_number_is_an_upper_bound(attack, plain_model, test_data):
    def flags(model):
        images, labels = test_data[0][:5], test_data[1][:5]
        if attack == "sweep":
            return fgsm_sweep(model, images, labels, 0.01).flags
        return run_attacks(model, images, labels, attacks=attack, epsilons=0.01)[0].flags

    assert PROBABILITIES in flags(nn.Sequential(plain_model, nn.Softmax(dim=1)))
    assert PROBABILITIES not in flags(plain_model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_a_softmax_in_any_precision_gives_probabilities(dtype, num_classes):
    logits = 3 * torch.randn(50, num_classes, generator=torch.Generator().manual_seed(0))
    assert is_distribution(logits.to(dtype).softmax(dim=1).float()).all()
    assert not is_distribution(logits.to(dtype).float()).any()


@pytest.mark.parametrize("count", [19, 300])
def test_an_honest_model_and_a_small_sample_give_no_warning(count, plain_model, test_data):
    images, labels = test_data[0][:count], test_data[1][:count]
    wrong = (labels + 1) % 10 if count < 20 else labels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swept(plain_model, images, wrong)
        attacked(plain_model, images, wrong)


def test_looking_changes_no_random_number(plain_model, test_data):
    state = torch.get_rng_state()
    swept(nn.Sequential(nn.Dropout(), plain_model), test_data[0][:30], test_data[1][:30])
    assert torch.equal(torch.get_rng_state(), state)
