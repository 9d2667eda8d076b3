from __future__ import annotations

import pytest
import torch
from torch import nn

from ibrobust.data import Dataset, load_dataset
from ibrobust.models import Encoder, ImageClassifier


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def classifier() -> ImageClassifier:
    """Untrained: the registry does not care."""
    torch.manual_seed(0)
    return ImageClassifier(Encoder(width=2, latent_dim=8), nn.Linear(8, 10)).eval()
