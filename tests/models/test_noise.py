from __future__ import annotations

import math

import torch

from ibrobust.models import ZERO_ENTROPY_VARIANCE, ZeroEntropyNoise


def test_a_gaussian_of_the_noise_variance_has_no_entropy():
    dim = 256
    gaussian = torch.distributions.Normal(0.0, math.sqrt(ZERO_ENTROPY_VARIANCE))
    assert abs(dim * float(gaussian.entropy())) < 1e-4


def test_training_noise_has_the_stated_variance_and_no_mean():
    torch.manual_seed(0)
    noise = ZeroEntropyNoise().train()(torch.zeros(2000, 100)).double()
    # 200,000 draws: standard errors are 0.00054 for the mean and 0.00019 for the variance; five of each.
    assert abs(float(noise.mean())) < 0.0027
    assert abs(float(noise.var()) - ZERO_ENTROPY_VARIANCE) < 0.00095


def test_evaluation_adds_nothing():
    latents = torch.rand(3, 4)
    assert ZeroEntropyNoise().eval()(latents) is latents
