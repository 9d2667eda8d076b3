"""The residual information against known entropies, and one snapshot's rows against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from ibrobust.data import load_dataset
from ibrobust.models import ZERO_ENTROPY_VARIANCE, Encoder
from ibrobust.objectives import entropy_bias
from ibrobust.study.information_plane import (
    decoder_cross_entropy,
    information_plane,
    snapshot_path,
    snapshot_taker,
    with_noise,
)
from ibrobust.study.spec import InformationPlane
from ibrobust.training.recipe import Recipe

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
def constant_encoder(tmp_path):
    """The snapshot of an encoder that maps all images to one point."""
    encoder = Encoder(width=2, latent_dim=8)
    torch.nn.init.zeros_(encoder.latent.weight)
    snapshot_taker(tmp_path, [1])(1, encoder)
    return snapshot_path(tmp_path, 1)


def test_an_encoder_that_says_nothing_shows_the_noise_floor(constant_encoder):
    digits, plane = load_dataset("digits"), InformationPlane(epochs=(1,))
    recipe = Recipe(dataset="digits", width=2, latent_dim=8, resfc_units=16)
    rows = information_plane(recipe, digits, plane, constant_encoder, device=torch.device("cpu"))
    found = {row["quantity"]: row["value"] for row in rows}
    assert {row["num_images"] for row in rows} == {360}
    floor = entropy_bias(360, 8, 3)
    assert found["noise_floor"] == floor.floor
    # One sample of 360; the entropy of 8 independent coordinates has a sampling error of sqrt(8 / 2 / 360).
    assert found["entropy"] == pytest.approx(floor.floor, abs=4 * math.sqrt(4 / 360))
    assert found["label_information"] == pytest.approx(math.log(10), abs=0.1)


def test_without_noise_there_is_no_noise_floor(constant_encoder):
    digits, plane = load_dataset("digits"), InformationPlane(epochs=(1,), n_examples=100)
    recipe = Recipe(dataset="digits", width=2, latent_dim=8, resfc_units=16, noise=False)
    rows = information_plane(recipe, digits, plane, constant_encoder, device=torch.device("cpu"))
    assert {row["quantity"] for row in rows} == {"entropy", "conditional_entropy", "label_information"}
    assert all(math.isfinite(row["value"]) for row in rows)


def test_a_snapshot_is_taken_of_the_epochs_that_were_asked_for(tmp_path):
    take = snapshot_taker(tmp_path, [1, 3])
    for epoch in (1, 2, 3):
        take(epoch, Encoder(width=2, latent_dim=8))
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        "epoch-1.safetensors",
        "epoch-3.safetensors",
    ]
