"""Which latents a memory holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ibrobust.data.batches import balanced_batches
from ibrobust.objectives import build_objective
from ibrobust.objectives.memory import LatentMemory

CLASSES, BATCH = 5, 20
LABELS = torch.arange(CLASSES).repeat(24)
LATENTS = torch.randn(len(LABELS), 3, generator=torch.Generator().manual_seed(0))


def batches() -> Tensor:
    """Return balanced batches (6, 20), each sorted by class."""
    return balanced_batches(LABELS, BATCH, torch.Generator().manual_seed(1))


def filled(size: int) -> LatentMemory:
    memory = LatentMemory(size, 3)
    for rows in batches():
        memory.remember(LATENTS[rows], LABELS[rows], rows)
    return memory


@pytest.mark.parametrize("size", [1, 4, 5, 12, 19, 20, 23, 35, 50, 58, 60, 99, 100])
def test_a_memory_of_any_size_has_as_many_latents_of_every_class(size: int):
    memory = filled(size)
    counts = memory.labels.bincount(minlength=CLASSES)
    assert int(counts.sum()) == size
    assert int(counts.max() - counts.min()) <= 1
    assert len(memory.images.unique()) == size
    assert torch.equal(LABELS[memory.images], memory.labels)
    assert torch.equal(LATENTS[memory.images], memory.latents)
    whole = size // BATCH * BATCH
    latest = batches().flip(0).flatten()
    assert torch.equal(memory.images[:whole], latest[:whole])
    assert set(memory.images[whole:].tolist()) <= set(latest[whole : whole + BATCH].tolist())


@pytest.mark.parametrize("size", [10, 50])
@pytest.mark.parametrize("name", ["soft_ib", "knn_ib"])
def test_the_loss_does_not_depend_on_the_order_of_the_classes(name: str, size: int):
    options = {"beta": 0.2, "memory_size": size, "latent_dim": 3, "num_classes": CLASSES}
    options |= {"neighbor_sharpness": 2.0} if name == "soft_ib" else {"num_neighbors": 3, "average_neighbors": True}
    renamed = torch.tensor([3, 0, 4, 2, 1])
    losses = []
    for names in (torch.arange(CLASSES), renamed):
        objective = build_objective(name, **options)
        seen = []
        for rows in batches():
            labels = names[LABELS[rows]]
            order = labels.argsort(stable=True)  # as a balanced batch of these classes would be
            seen.append(float(objective(LATENTS[rows[order]], labels[order], rows[order]).total))
        losses.append(seen)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
