"""The decoders of a stored model: on which images, and with which noise, they were fitted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_digits import small_digits

from ibrobust.data import Dataset, to_unit_range
from ibrobust.models import fit_gaussian_mixture
from ibrobust.registry import load_model, train
from ibrobust.registry.store import read_model
from ibrobust.training.recipe import Recipe

ZERO_ENTROPY = 1 / (2 * math.pi * math.e)
KNN_IB = {"objective": "knn_ib", "num_neighbors": 3, "soft_share": 0.0}
TINY = Recipe(
    **KNN_IB,
    dataset="digits",
    width=2,
    latent_dim=3,
    epochs=1,
    batch_size=100,
    decoders=("gaussian_mixture", "logistic", "resfc"),
    resfc_units=4,
    mixed_precision="no",
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return small_digits()


def test_no_decoder_has_seen_the_test_half(data):
    stored = {}
    for name, test in (("one", data.test), ("other", data.train.subset(150))):
        train(TINY, name=name, dataset=replace(data, test=test), device="cpu")
        stored[name] = read_model(name)[1]
    assert {key.split(".")[1] for key in stored["one"] if key.startswith("decoder")} == {*TINY.decoders}
    differing = [key for key, tensor in stored["one"].items() if not torch.equal(tensor, stored["other"][key])]
    assert differing == []


@pytest.mark.parametrize(
    ("fields", "variance"),
    [(KNN_IB, ZERO_ENTROPY), ({**KNN_IB, "noise": False}, 0.0), ({"objective": "cross_entropy"}, 0.0)],
    ids=["knn_ib", "no noise", "cross_entropy"],
)
def test_the_gaussian_mixture_has_the_variance_of_the_trainings_noise(data, fields: dict[str, Any], variance: float):
    recipe = TINY.model_copy(update=fields)
    train(recipe, name="tiny", dataset=data, device="cpu")
    model = load_model("tiny", decoder="gaussian_mixture")
    with torch.no_grad():
        latents = model.encoder(to_unit_range(data.train.images))
    expected = fit_gaussian_mixture(latents, data.train.labels, 10, noise_variance=variance)
    torch.testing.assert_close(model.decoder.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)
