from __future__ import annotations

import pytest
from small_digits import small_digits

from ibrobust.data import Dataset
from ibrobust.training.recipe import Recipe


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return small_digits()


@pytest.fixture
def tiny_recipe() -> Recipe:
    """Trains in a moment; the noise and the augmentation are on, so that their random draws are in play."""
    return Recipe(
        dataset="digits",
        width=2,
        latent_dim=8,
        batch_size=100,
        epochs=3,
        num_neighbors=3,
        memory_size=150,
        schedule="one_cycle",
        learning_rate=3e-3,
        decoders=("logistic",),
        mixed_precision="no",
    )
