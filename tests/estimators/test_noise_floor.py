from __future__ import annotations

import math

import pytest
import torch

from ibrobust.errors import IbrobustError
from ibrobust.estimators import knn_entropy
from ibrobust.estimators.noise_floor import ZERO_ENTROPY_SIGMA, entropy_bias


@pytest.mark.parametrize(("count", "published"), [(50, 69.6), (500, 65.0), (5000, 58.4)])
def test_floor_in_256_dimensions_is_the_published_one(count: int, published: float):
    # The published figures are single estimates, whose standard deviation is about sqrt(d / 2 / N).
    assert abs(entropy_bias(count, 256).floor - published) < 4 * math.sqrt(128 / count)


@pytest.mark.parametrize(("count", "shown"), [(50, 71.7), (5000, 58.6)])
def test_the_floor_is_the_one_that_the_page_on_the_method_shows(count: int, shown: float):
    bias = entropy_bias(count, 256)
    assert abs(bias.floor - shown) < 4 * bias.standard_error


def test_there_is_no_bias_in_one_dimension_and_many_samples():
    bias = entropy_bias(4000, 1)
    assert abs(bias.bias) < 4 * bias.standard_error + 0.01


def test_standard_error_is_that_of_other_seeds():
    biases = [entropy_bias(200, 32, seed=seed) for seed in range(1, 9)]
    spread = torch.tensor([bias.bias for bias in biases]).std()
    assert 0.4 < float(spread) / biases[0].standard_error < 2.0


@pytest.mark.parametrize("average", [False, True])
def test_subtracting_the_bias_gives_the_entropy_of_other_samples(average: bool):
    bias = entropy_bias(300, 64, 5, average=average)
    z = 0.7 * torch.randn(300, 64, generator=torch.Generator().manual_seed(99))
    true = 32 * math.log(2 * math.pi * math.e * 0.49)
    # The standard deviation of one sample's estimate.
    assert abs(float(knn_entropy(z, 5, average=average)) - bias.bias - true) < 4 * math.sqrt(32 / 300)


def test_sigma_moves_the_floor_by_the_scaling_law_and_not_the_bias():
    unit, scaled = entropy_bias(100, 8), entropy_bias(100, 8, sigma=3 * ZERO_ENTROPY_SIGMA)
    assert scaled.floor - unit.floor == pytest.approx(8 * math.log(3))
    assert scaled.bias == unit.bias


def test_the_floor_of_zero_entropy_noise_is_its_bias():
    bias = entropy_bias(100, 8)
    assert bias.floor == pytest.approx(bias.bias, abs=1e-12)


def test_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    entropy_bias(70, 3, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 2, 3), "too few"),
        ((10, 0, 3), "dim is 0"),
        ((10, 2, 0), "num_neighbors is 0"),
        ((0, 2, 3), "count is 0"),
        ((10, 2.5, 3), "dim is 2.5"),
    ],
)
def test_bad_sizes_are_refused(arguments: tuple[int, int, int], message: str):
    with pytest.raises(IbrobustError, match=message):
        entropy_bias(*arguments)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_bad_sigma_is_refused(sigma: float):
    with pytest.raises(IbrobustError, match="sigma"):
        entropy_bias(10, 2, sigma=sigma)


@pytest.mark.parametrize("dim", ["a", 0, 1.5])
def test_what_is_no_number_of_dimensions_is_refused(dim):
    with pytest.raises(IbrobustError, match="dim"):
        entropy_bias(50, dim)
