"""What latents hold, against known entropies and against the estimators themselves."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from ibrobust.estimators import conditional_knn_entropy, entropy_bias, knn_entropy, mutual_information
from ibrobust.estimators.latent_information import decoder_cross_entropy, latent_information, with_noise
from ibrobust.estimators.noise_floor import _unit_bias
from ibrobust.full_precision import default_dtype
from ibrobust.models import ZERO_ENTROPY_VARIANCE

SIGMA = math.sqrt(ZERO_ENTROPY_VARIANCE)


def label_entropy_of_two_gaussians(distance: float) -> float:
    """Return H[Y | Z] in nats of two equally likely classes at 0 and `distance`, with zero-entropy noise, exactly."""

    def integrand(z: float) -> float:
        densities = [0.5 * norm.pdf(z, at, SIGMA) for at in (0.0, distance)]
        total = sum(densities)
        return -sum(p * math.log(p / total) for p in densities if p > 0)

    value, _ = quad(integrand, -8 * SIGMA, distance + 8 * SIGMA)
    return value


@pytest.mark.parametrize("distance", [0.0, 0.3, 0.8, 3.0])
def test_the_decoder_finds_the_residual_information_of_two_gaussians(distance):
    labels = torch.arange(2000) % 2
    latents = (labels.float() * distance)[:, None].expand(-1, 4) * torch.tensor([1.0, 0.0, 0.0, 0.0])
    found = decoder_cross_entropy(latents, labels, 2, noise=True, units=16, seed=0)
    exact = label_entropy_of_two_gaussians(distance)
    # Judged on 2,000 draws; a decoder that had learnt the noise by heart would be far below.
    assert found == pytest.approx(exact, abs=0.04)


def test_few_latents_cannot_be_told_apart_by_their_noise():
    labels = torch.arange(100) % 2  # the latents say nothing about them
    found = decoder_cross_entropy(torch.zeros(100, 64), labels, 2, noise=True, units=64, seed=0)
    assert found > 0.95 * math.log(2)


def test_a_decoder_that_knows_the_noise_of_its_fit_by_heart_gains_nothing(monkeypatch):
    def by_heart(points, labels, num_classes, **options):
        known = {tuple(point): label for point, label in zip(points.tolist(), labels.tolist(), strict=True)}

        def decoder(judged):
            found = torch.tensor([known.get(tuple(point), -1) for point in judged.tolist()])
            return 50.0 * (found[:, None] == torch.arange(num_classes))

        return decoder

    monkeypatch.setattr("ibrobust.estimators.latent_information.fit_resfc", by_heart)
    found = decoder_cross_entropy(torch.zeros(20, 3), torch.arange(20) % 2, 2, noise=True, units=1, seed=0)
    assert found == pytest.approx(math.log(2))


def test_without_noise_distinct_latents_leave_nothing_open():
    generator = torch.Generator().manual_seed(0)
    latents, labels = 10 * torch.randn(100, 8, generator=generator), torch.arange(100) % 2
    assert decoder_cross_entropy(latents, labels, 2, noise=False, units=64, seed=0) < 0.05


def test_the_noise_has_no_entropy_and_follows_from_the_seed():
    noise = with_noise(torch.zeros(100_000, 2), 0, "entropy")
    assert 0.5 * math.log(2 * math.pi * math.e * float(noise.var())) == pytest.approx(0.0, abs=0.01)
    assert torch.equal(noise, with_noise(torch.zeros(100_000, 2), 0, "entropy"))
    assert not torch.equal(noise, with_noise(torch.zeros(100_000, 2), 0, "fit"))
    assert not torch.equal(noise, with_noise(torch.zeros(100_000, 2), 1, "entropy"))


@pytest.fixture
def clusters() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 4
    return 5 * torch.eye(4)[labels] + torch.randn(1000, 4, generator=generator), labels


def test_entropies_are_the_estimators_of_the_noisy_latents(clusters):
    latents, labels = clusters
    found = latent_information(latents, labels, 4, num_neighbors=5, units=16, seed=3)
    noisy = with_noise(latents, 3, "entropy")
    assert found.entropy == float(knn_entropy(noisy, 5))
    assert found.conditional_entropy == float(conditional_knn_entropy(noisy, labels, 5))
    assert found.mutual_information == mutual_information(noisy, labels, 5).nats
    assert found.noise_floor == entropy_bias(1000, 4, 5).floor
    assert (found.num_points, found.num_neighbors, found.noise) == (1000, 5, True)


def test_without_noise_latents_are_taken_as_they_are(clusters):
    latents, labels = clusters
    found = latent_information(latents, labels, 4, noise=False, units=16)
    assert found.entropy == float(knn_entropy(latents, 3))
    assert found.noise_floor is None


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_latents_of_any_precision_have_the_same_information(clusters, dtype, noise, monkeypatch):
    monkeypatch.setattr("ibrobust.estimators.latent_information.DECODER_STEPS", 8)
    latents, labels = clusters[0].half(), clusters[1]  # numbers that every dtype holds
    expected = latent_information(latents.float(), labels, 4, noise=noise, units=8)
    found = latent_information(latents.to(dtype), labels.int(), 4, noise=noise, units=8)
    assert found.label_information == expected.label_information
    assert found.noise_floor == expected.noise_floor
    for name in ("entropy", "conditional_entropy", "mutual_information"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-5)


def test_information_does_not_depend_on_the_default_dtype(clusters, monkeypatch):
    monkeypatch.setattr("ibrobust.estimators.latent_information.DECODER_STEPS", 8)
    latents, labels = clusters
    expected = latent_information(latents, labels, 4, units=8)
    _unit_bias.cache_clear()
    with default_dtype(torch.float64):
        assert latent_information(latents, labels, 4, units=8) == expected


def test_separated_classes_leave_nothing_open(clusters):
    latents, labels = clusters
    found = latent_information(4 * latents, labels, 4, units=64)
    assert found.label_information < 0.05
    assert found.mutual_information == pytest.approx(math.log(4), abs=0.02)
