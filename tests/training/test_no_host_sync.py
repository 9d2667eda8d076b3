"""On a GPU the host runs ahead: a training step never waits for the device.

Except that of `adversarial`, which reads two accuracies in every 20th step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ibrobust.data import load_dataset
from ibrobust.data.augment import crop_and_flip
from ibrobust.data.dataset import to_unit_range
from ibrobust.training.accelerator import build_accelerator
from ibrobust.training.recipe import Recipe
from ibrobust.training.trainer import build_step

OBJECTIVES: list[dict[str, Any]] = [
    {"objective": "cross_entropy"},
    {"objective": "cross_entropy", "dropconnect": 0.5},
    {"objective": "knn_ib", "soft_share": 0.5},
    {"objective": "knn_ib", "average_neighbors": True, "fixed_power": True},
    {"objective": "knn_ib", "num_neighbors": 5, "soft_share": 0.0, "memory_size": 512},
    {"objective": "soft_ib", "memory_size": 0},
    {"objective": "soft_ib", "memory_size": 512},
    {"objective": "dvib"},
    {"objective": "ceb"},
    {"objective": "dib"},
]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU works beside the host")
@pytest.mark.parametrize("fields", OBJECTIVES, ids=lambda fields: "-".join(map(str, fields.values())))
def test_a_step_never_waits_for_the_device(fields: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe(width=4, batch_size=100, **fields)
    data = load_dataset("digits")
    accelerator = build_accelerator(recipe, tmp_path, device="cuda", log_with=None)
    _, step, _, optimizer = build_step(recipe, data, accelerator)
    step.train()
    train = data.train.to(accelerator.device)
    batch = torch.arange(100, device=accelerator.device)
    offsets = torch.zeros(100, 2, dtype=torch.long, device=accelerator.device)
    flips = torch.zeros(100, dtype=torch.bool, device=accelerator.device)

    def one_step() -> None:
        images = to_unit_range(crop_and_flip(train.images[batch], offsets, flips))
        total, _ = step(images, train.labels[batch], batch)
        accelerator.backward(total)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    one_step()  # what is made once may wait: kernels are chosen, optimiser state is allocated
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one_step()
    finally:
        torch.cuda.set_sync_debug_mode(before)
