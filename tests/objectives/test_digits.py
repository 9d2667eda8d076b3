"""Every objective learns the handwritten digits through a small network."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ibrobust.objectives import Objective, build_objective

LATENT_DIM = 16
NOISE = math.sqrt(1 / (2 * math.pi * math.e))


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16.0  # (N, 1, 8, 8)
    labels = torch.from_numpy(digits.target).long()
    test = torch.arange(len(labels)) % 5 == 0
    return images[~test], labels[~test], images[test], labels[test]


def balanced_batches(labels: Tensor, per_class: int) -> Tensor:
    columns = [(labels == label).nonzero().squeeze(1) for label in range(10)]
    shortest = min(len(column) for column in columns) // per_class * per_class
    mixed = torch.stack([column[torch.randperm(len(column))[:shortest]] for column in columns], dim=1)
    return mixed.reshape(-1, 10 * per_class)


def train(objective: Objective, *, epochs: int = 25) -> tuple[nn.Module, tuple[Tensor, ...]]:
    data = split()
    outputs = LATENT_DIM * objective.outputs_per_latent
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, outputs))
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=3e-3)
    for _ in range(epochs):
        for batch in balanced_batches(data[1], 10):
            images = objective.training_images(data[0][batch], data[1][batch], encoder)
            latents = encoder(images)
            if objective.adds_noise:
                latents = latents + NOISE * torch.randn_like(latents)
            optimizer.zero_grad()
            objective(latents, data[1][batch]).total.backward()
            optimizer.step()
    return encoder.eval(), data


def nearest_class_mean_accuracy(encoder: nn.Module, data: tuple[Tensor, ...]) -> float:
    train_images, train_labels, test_images, test_labels = data
    latents = encoder(train_images)
    means = torch.stack([latents[train_labels == label].mean(0) for label in range(10)])
    return float((torch.cdist(encoder(test_images), means).argmin(1) == test_labels).float().mean())


def head_accuracy(objective: Objective, encoder: nn.Module, data: tuple[Tensor, ...]) -> float:
    logits = objective.head(encoder(data[2])[:, :LATENT_DIM])
    return float((logits.argmax(1) == data[3]).float().mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", {}),
        ("dvib", {"beta": 1e-3}),
        ("ceb", {"beta": 1e-2}),
        ("dib", {"beta": 1e-3, "num_neighbors": 3, "average_neighbors": False}),
        ("dib", {"beta": 1e-3, "num_neighbors": 3, "average_neighbors": False, "conditional": True}),
        ("adversarial", {"epsilon": 0.05}),
    ],
)
def test_head_learns_the_digits(name: str, options: dict[str, float]):
    torch.manual_seed(0)
    objective = build_objective(name, latent_dim=LATENT_DIM, num_classes=10, **options)
    encoder, data = train(objective)
    assert head_accuracy(objective, encoder, data) >= 0.95


@pytest.mark.parametrize("average", [False, True])
def test_knn_bottleneck_learns_the_digits_without_a_decoder(average: bool):
    torch.manual_seed(0)
    objective = build_objective(
        "knn_ib", latent_dim=LATENT_DIM, num_classes=10, beta=0.03, num_neighbors=3, average_neighbors=average
    )
    # Without a decoder and with noise it needs longer than a dozen epochs, where rounding decides about a point.
    encoder, data = train(objective, epochs=30)
    assert nearest_class_mean_accuracy(encoder, data) >= 0.95
