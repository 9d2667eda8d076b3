"""Models whose logits for an image depend on its batch are named, in every evaluation; half precision is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.logit_distance import BATCH_DEPENDENT, SAME, logit_distance, logits_depend_on
from ibrobust.evaluation.pass_counter import counting_passes
from ibrobust.evaluation.sweep import SweepResult, fgsm_sweep
from ibrobust.evaluation.worst_case_attack import worst_case_attack
from ibrobust.isolated_rng import isolated_rng

SHAPE = (3, 8, 8)


class Alone(nn.Module):
    """Images (B, 3, 8, 8) -> logits (B, 4), linear in the pixels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, math.prod(SHAPE), generator=generator) / 8)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


class Centred(Alone):
    """The mean image of the batch is subtracted, as by batch normalisation with the statistics of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean(dim=0))


class ComparedWithTheFirst(Alone):
    """The first image of the batch is subtracted, and the other images have no effect."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - 0.5 * images[:1])


class FixedNoise(Alone):
    """The same noise at each pass: the logits depend on the place in the batch."""

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return super().forward(images + 0.5 * noise)


class Noisy(Alone):
    """Noise on the logits."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits + 0.1 * torch.randn_like(logits)


class RoundedByBatch(Alone):
    """Sums in bfloat16, in an order that depends on the size of the batch, as kernels of half precision have it."""

    def forward(self, images: Tensor) -> Tensor:
        products = (images.flatten(1)[:, None] * self.weight)[..., ::8].to(torch.bfloat16)  # (B, 4, D / 8)
        if len(images) < 32:
            products = products.flip(2)
        # One after the other, each sum rounded to bfloat16.
        total = torch.zeros_like(products[..., 0])
        for part in products.unbind(2):
            total = total + part
        return total


def _images(count: int = 40) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def _convnet() -> nn.Module:
    with isolated_rng(0):
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)]
        model = nn.Sequential(*layers)
        model(_images())  # statistics for batch normalisation
    return model.eval()


DEPENDENT = [Centred, ComparedWithTheFirst, FixedNoise]


@pytest.mark.parametrize("kind", DEPENDENT)
@pytest.mark.parametrize("count", [7, 31, 32])
def test_what_else_than_the_image_decides_is_found(kind, count):
    assert logits_depend_on(guard(kind()), _images(count)) == "batch"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2, 31, 32])
def test_a_model_that_treats_each_image_alone_is_not_named_in_any_precision(dtype, count):
    model = guard(_convnet().to(dtype))
    with counting_passes(model) as counter:
        assert logits_depend_on(model, _images(count)) is None
    few = min(count, 4)
    # The images as they are and slightly moved, and two gradients of a few.
    assert (counter().forward_images, counter().backward_images) == (2 * (2 * count + 7 * few) + 2 * few, 2 * few)


def test_rounding_that_depends_on_the_size_of_the_batch_is_not_dependence():
    model, images = guard(RoundedByBatch()), _images(32)
    with torch.no_grad():
        together, apart = model(images), torch.cat([model(part) for part in images.split(16)])
    assert logit_distance(together, apart) > 100 * SAME
    assert logits_depend_on(model, images) is None


def test_a_random_model_is_named_as_one():
    with isolated_rng(0):
        assert logits_depend_on(guard(Noisy()), _images(32)) == "draws"


class OneOfTwo(nn.Module):
    """Draws once for a whole batch whether one logit is larger."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1)[:, :3]
        return logits + (torch.rand(1) < 0.5) * torch.tensor([0.5, 0.0, 0.0])


def test_a_model_that_draws_one_of_two_values_for_a_batch_is_random():
    found = []
    for seed in range(40):
        with isolated_rng(seed):
            found.append(logits_depend_on(guard(OneOfTwo()), _images(32)))
    assert found.count("draws") == 40


class NumpyOneOfTen(nn.Module):
    """Draws once for a whole batch, with NumPy, whether one logit is larger: in one pass of ten."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1)[:, :3]
        return logits + float(np.random.rand() < 0.1) * torch.tensor([0.5, 0.0, 0.0])


def test_a_model_that_seldom_draws_another_value_is_random():
    found = []
    for seed in range(20):
        with isolated_rng(seed):
            found.append(logits_depend_on(guard(NumpyOneOfTen()), _images(32)))
    assert found.count("draws") == 20


def test_the_worst_case_of_a_model_that_depends_on_the_batch_is_an_upper_bound():
    images = _images(6)
    labels = Centred()(images).argmax(dim=1)
    result = worst_case_attack(Centred(), images, labels, epsilon=0.2, queries=1)
    assert result.warnings[0] == BATCH_DEPENDENT
    assert result.upper_bound
    assert BATCH_DEPENDENT not in worst_case_attack(Centred(), images, labels, epsilon=0.2, batch_size=1).warnings


def test_attacks_on_a_model_that_depends_on_the_batch_are_flagged():
    images = _images(8)
    labels = Centred()(images).argmax(dim=1)
    attacks = ["PGD:steps=2", "FGSM", "AutoAttack:n_iter=2,n_queries=2", "WorstCase"]
    for result in run_attacks(Centred(), images, labels, attacks=attacks, epsilons=0.01):
        assert BATCH_DEPENDENT in result.flags, result.attack
    (alone,) = run_attacks(Alone(), images, Alone()(images).argmax(dim=1), attacks="PGD:steps=2", epsilons=0.01)
    assert alone.flags == ()


def test_a_sweep_of_a_model_that_depends_on_the_batch_is_flagged_and_stored_so():
    images = _images()
    sweep = fgsm_sweep(Centred(), images, Centred()(images).argmax(dim=1), [0.01])
    assert sweep.flags == (BATCH_DEPENDENT,)
    assert SweepResult.from_dict(sweep.to_dict()) == sweep
    assert fgsm_sweep(Alone(), images, Alone()(images).argmax(dim=1), [0.01]).flags == ()
