"""Training on images that are given in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ibrobust import Dataset, Recipe, load_dataset, load_model, train
from ibrobust.errors import IbrobustError

RANDOM = np.random.default_rng(0)


def mine(count: int = 24, *, channels: int = 1) -> Dataset:
    """Grey images of 12x10 pixels in three classes."""
    images = RANDOM.integers(0, 256, (count, 12, 10), dtype=np.uint8)
    labels = np.arange(count) % 3
    return Dataset.of((images, labels), train=(images, labels), name="blobs").in_channels(channels)


RECIPE = Recipe(objective="cross_entropy", width=1, latent_dim=2, epochs=1, batch_size=12, decoders=())


def test_the_card_says_which_images_they_were(home):
    data = mine()
    card = train(RECIPE, dataset=data)
    assert card.name == "cross_entropy-blobs-w1-s0"
    assert (card.dataset.name, card.dataset.fingerprint) == ("blobs", data.fingerprint)
    assert card.recipe.dataset == "memory:blobs"
    assert load_model(card.name)(torch.rand(2, 1, 12, 10)).shape == (2, 3)
    with pytest.raises(IbrobustError, match="'blobs' were given in memory"):
        load_dataset(card.recipe.dataset)


def test_a_data_set_with_a_source_is_named_by_it():
    card = train(RECIPE, name="grey", dataset=load_dataset("digits:channels=1"))
    assert card.recipe.dataset == "digits:channels=1"
    assert load_dataset(card.recipe.dataset).fingerprint == card.dataset.fingerprint


def test_what_cannot_be_trained_on():
    data = mine()
    with pytest.raises(IbrobustError, match="The data set is a tuple: give .*ibrobust.Dataset.of"):
        train(RECIPE, dataset=(data.test.images, data.test.labels))
    with pytest.raises(IbrobustError, match="'blobs' has no training images: give them with ibrobust.Dataset.of"):
        train(RECIPE, dataset=Dataset.of((data.test.images, data.test.labels), name="blobs"))
