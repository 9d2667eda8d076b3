from __future__ import annotations

import pytest

from ibrobust.data import Dataset, load_dataset
from ibrobust.training.recipe import Recipe


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def tiny_recipe() -> Recipe:
    """Trains in about a second; the noise and the augmentation are on, so that their random draws are in play."""
    return Recipe(
        dataset="digits",
        width=2,
        latent_dim=8,
        batch_size=200,
        epochs=3,
        num_neighbors=3,
        schedule="one_cycle",
        learning_rate=3e-3,
        decoders=("logistic",),
        mixed_precision="no",
    )
