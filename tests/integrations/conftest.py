"""Small models and images that every integration is tried on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ibrobust.data import load_dataset, to_unit_range


class TinyNet(nn.Module):
    """Images (B, 3, 32, 32) in [0, 1] -> logits (B, 10): small, smooth, with an ordinary gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.linear = nn.Linear(8 * 7 * 7, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.conv(images)).flatten(1))


@pytest.fixture(scope="session")
def tiny_model() -> nn.Module:
    """A TinyNet briefly fitted to the digits, in evaluation mode: right nearly always, and not robust."""
    train = load_dataset("digits").train
    images, labels = to_unit_range(train.images), train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyNet()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(3):
            for part in torch.randperm(len(labels)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
                optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="session")
def digits_images() -> tuple[Tensor, Tensor]:
    """32 test images of the digits (32, 3, 32, 32) in [0, 1] and their labels."""
    test = load_dataset("digits").test.subset(32)
    return to_unit_range(test.images), test.labels


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ibrobust home for every test."""
    home = tmp_path / "ibrobust_home"
    monkeypatch.setenv("IBROBUST_HOME", str(home))
    return home
