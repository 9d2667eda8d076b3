"""The residual information against known entropies, and one snapshot's rows against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from ibrobust.data import load_dataset
from ibrobust.estimators import entropy_bias
from ibrobust.models import ZERO_ENTROPY_VARIANCE, Encoder
from ibrobust.study.information_plane import (
    information_plane,
    snapshot_path,
    snapshot_taker,
)
from ibrobust.study.spec import InformationPlane
from ibrobust.training.recipe import Recipe

SIGMA = math.sqrt(ZERO_ENTROPY_VARIANCE)


@pytest.fixture
def constant_encoder(tmp_path):
    """The snapshot of an encoder that maps all images to one point."""
    encoder = Encoder(width=2, latent_dim=8, fixed_power=True)
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


def test_grey_images_have_a_plane_too(tmp_path):
    encoder = Encoder(width=2, latent_dim=8, mean=(0.2,), std=(0.4,))
    snapshot_taker(tmp_path, [1])(1, encoder)
    recipe = Recipe(objective="cross_entropy", dataset="digits", width=2, latent_dim=8, resfc_units=16)
    digits, plane = load_dataset("digits").in_channels(1), InformationPlane(epochs=(1,), n_examples=100)
    rows = information_plane(recipe, digits, plane, snapshot_path(tmp_path, 1), device=torch.device("cpu"))
    assert all(math.isfinite(row["value"]) for row in rows)


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
