from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ibrobust.data import Dataset, load_dataset
from ibrobust.data.digits import load_digits
from ibrobust.models import Encoder, ImageClassifier


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def classifier() -> ImageClassifier:
    """Untrained: the registry does not care."""
    torch.manual_seed(0)
    return ImageClassifier(Encoder(width=2, latent_dim=8), nn.Linear(8, 10)).eval()


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave 400 training images of the digits, so that a training takes a moment."""
    whole = load_digits()
    few = replace(whole, train=whole.train.subset(400))
    monkeypatch.setattr("ibrobust.data.load.load_digits", lambda: few)
