"""The information plane: entropies of the test latents at chosen epochs of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ibrobust.atomic import write_tensors
from ibrobust.data import Dataset
from ibrobust.estimators.latent_information import latent_information
from ibrobust.models import Encoder, encode_in_batches
from ibrobust.objectives import objective_class
from ibrobust.registry.scoring import unit_batches
from ibrobust.study.spec import InformationPlane
from ibrobust.training.recipe import Recipe

# The recorded attributes of `LatentInformation`.
QUANTITIES = ("entropy", "conditional_entropy", "label_information", "noise_floor")


def snapshots_folder(folder: Path) -> Path:
    """Return the folder of a cell's snapshots."""
    return folder / "snapshots"


def snapshot_path(folder: Path, epoch: int) -> Path:
    """Return the file of a cell's encoder after an epoch."""
    return snapshots_folder(folder) / f"epoch-{epoch}.safetensors"


def has_snapshots(folder: Path, epochs: Sequence[int]) -> bool:
    """Return whether a cell has a snapshot after each of the epochs."""
    return all(snapshot_path(folder, epoch).is_file() for epoch in epochs)


def snapshot_taker(folder: Path, epochs: Sequence[int]) -> Callable[[int, Encoder], None]:
    """Return a callback for training; it stores a cell's encoder after each of the epochs."""

    def take(epoch: int, encoder: Encoder) -> None:
        if epoch in epochs:
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in encoder.state_dict().items()}
            write_tensors(snapshot_path(folder, epoch), tensors)

    return take


def information_plane(
    recipe: Recipe, dataset: Dataset, plane: InformationPlane, snapshot: Path, *, device: torch.device
) -> list[dict[str, Any]]:
    """Return the information plane's rows for one snapshot (Kirsch, Lyle, Gal 2020, figure 2), all in nats.

    With Z the test images' latents, with zero-entropy noise if there was noise in training: `entropy` is H[Z], which is
    I[X; Z] if the encoder is deterministic and the noise has no entropy, `conditional_entropy` is H[Z | Y], both by the
    kNN estimator, and `label_information` is an upper bound of I[X; Y | Z] = H[Y | Z], see `decoder_cross_entropy`.
    `noise_floor`, if there was noise, is the estimate for the noise alone.

    Args:
        recipe: the encoder's training.
        dataset: its test images are used.
        plane: the number of test images and of neighbours.
        snapshot: file of the encoder's weights.
        device: for the computation.

    Raises:
        IbrobustError: a class has too few test images for that many neighbours.
    """
    from safetensors.torch import load_file

    test = dataset.test.subset(plane.n_examples)
    labels = test.labels.to(device)
    weights = load_file(snapshot)
    channels = weights["mean"].numel()
    encoder = Encoder(
        width=recipe.width,
        latent_dim=recipe.latent_dim,
        mean=(0.0,) * channels,  # the snapshot has the numbers
        std=(1.0,) * channels,
        fixed_power=recipe.fixed_power,
    )
    encoder.load_state_dict(weights)
    clean = encode_in_batches(encoder.to(device).eval(), unit_batches(test, device))  # (N, D)
    has_noise = recipe.noise and objective_class(recipe.objective).adds_noise
    found = latent_information(
        clean,
        labels,
        dataset.num_classes,
        noise=has_noise,
        num_neighbors=plane.num_neighbors,
        units=recipe.resfc_units,
        seed=recipe.seed,
    )
    return [
        {"quantity": quantity, "value": value, "num_images": len(test)}
        for quantity in QUANTITIES
        if (value := getattr(found, quantity)) is not None
    ]
