"""Small real classifiers: trained once a session on scikit-learn's digits, one as usual and one adversarially."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from light_audit import lighten
from torch import Tensor, nn

from ibrobust.data import Split, load_dataset
from ibrobust.evaluation.audit.subject import QUICK

Data = tuple[Tensor, Tensor]


class SmallNet(nn.Module):
    """Images (B, 3, 16, 16) in [0, 1] -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, following in ((3, 12), (12, 24), (24, 24)):
            layers += [nn.Conv2d(channels, following, 3, stride=2, padding=1), nn.BatchNorm2d(following), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(24 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features((images - 0.3) / 0.4))


def _train(data: Data, *, epochs: int, adversarial_epsilon: float = 0.0) -> nn.Module:
    images, labels = data
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallNet()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(epochs):
            for indices in torch.randperm(len(images)).split(64):
                batch, targets = images[indices], labels[indices]
                if adversarial_epsilon:
                    batch = _pgd_images(model, batch, targets, adversarial_epsilon)
                optimizer.zero_grad()
                F.cross_entropy(model(batch), targets).backward()
                optimizer.step()
    return model.eval()


def _pgd_images(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    # Written out, so that the attack under test is not what makes the model it is tested on.
    moved = (images + (2 * torch.rand_like(images) - 1) * epsilon).clamp(0, 1)
    for _ in range(4):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), labels), moved)
        moved = (moved.detach() + epsilon / 2 * gradient.sign()).clamp(images - epsilon, images + epsilon)
        moved = moved.clamp(0, 1).detach()
    return moved


def _half_as_large(split: Split) -> Data:
    # The digits are 8 x 8, enlarged: nothing is lost, and every pass costs a third.
    return split.images[:, :, ::2, ::2].float() / 255, split.labels


@pytest.fixture(scope="session")
def train_data() -> Data:
    """Images (N, 3, 16, 16) in [0, 1] and labels (N,)."""
    return _half_as_large(load_dataset("digits").train)


@pytest.fixture(scope="session")
def test_data() -> Data:
    return _half_as_large(load_dataset("digits").test)


@pytest.fixture(scope="session")
def trained_plain(train_data: Data) -> nn.Module:
    return _train(train_data, epochs=6)


@pytest.fixture(scope="session")
def trained_adversarially(train_data: Data) -> nn.Module:
    return _train(train_data, epochs=8, adversarial_epsilon=0.06)


@pytest.fixture
def plain_model(trained_plain: nn.Module) -> nn.Module:
    """A classifier trained with cross-entropy; a copy, so that no test sees another's changes."""
    return copy.deepcopy(trained_plain)


@pytest.fixture
def robust_model(trained_adversarially: nn.Module) -> nn.Module:
    """A classifier trained with PGD at epsilon 0.06; a copy."""
    return copy.deepcopy(trained_adversarially)


@pytest.fixture
def light_audits(monkeypatch: pytest.MonkeyPatch) -> None:
    lighten(monkeypatch, replace(QUICK, steps=10, queries=20, draws=4, random_draws=10))
