"""What one or two gloo processes compute in a training step, and a training that stops in its second epoch.

A program, under torchrun: DATA_SET CASES_FILE OUTPUT_FILE RECIPE_FILE RUN_FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ibrobust.collectives import own_share
from ibrobust.data import Dataset, load_dataset, to_unit_range
from ibrobust.data.batches import balanced_batches
from ibrobust.training.accelerator import build_accelerator
from ibrobust.training.recipe import Recipe
from ibrobust.training.trainer import build_step, train_encoder

STEPS = 2


def step_results(recipe: Recipe, dataset: Dataset) -> dict[str, Tensor]:
    """Return loss, terms and every parameter's gradient in the second of two steps, and all buffers after it.

    The first step's update makes running statistics and a memory of latents take part in the second.
    In float64, where rounding cannot choose another neighbour.
    """
    accelerator = build_accelerator(recipe, Path("unused"), device="cpu", log_with=None)
    torch.set_default_dtype(torch.float64)
    bare, step, _, optimizer = build_step(recipe, dataset, accelerator)
    torch.set_default_dtype(torch.float32)
    step.train()
    batches = balanced_batches(dataset.train.labels, recipe.batch_size, torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    for batch in batches[:STEPS]:
        share = own_share(batch)
        optimizer.zero_grad()
        total, terms = step(to_unit_range(dataset.train.images[share]).double(), dataset.train.labels[share], share)
        accelerator.backward(total)
        gradients = {f"gradient {name}": p.grad.clone() for name, p in bare.named_parameters()}
        optimizer.step()
    buffers = {f"buffer {name}": buffer.clone() for name, buffer in bare.named_buffers()}
    return {"loss": total.detach(), **{f"term {name}": value for name, value in terms.items()}, **gradients, **buffers}


def all_results(cases: dict[str, dict[str, Any]], dataset: Dataset) -> dict[str, Tensor]:
    return {
        f"{case}/{name}": tensor.contiguous().clone()
        for case, fields in cases.items()
        for name, tensor in step_results(Recipe.model_validate(fields), dataset).items()
    }


def stop(epoch: int, encoder: object) -> None:
    if epoch == 2:
        sys.exit("stopped")


def main() -> None:
    dataset = load_dataset(sys.argv[1])
    results = all_results(json.loads(Path(sys.argv[2]).read_text()), dataset)
    save_file(results, f"{sys.argv[3]}-{os.environ['RANK']}.safetensors")
    # Last, because it ends one process, and the launcher then ends the other.
    train_encoder(Recipe.from_yaml(sys.argv[4]), dataset, Path(sys.argv[5]), device="cpu", on_epoch=stop)


if __name__ == "__main__":
    main()
