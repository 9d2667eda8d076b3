"""The information plane: entropies of the test latents at chosen epochs of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ibrobust.atomic import atomic_path
from ibrobust.data import Dataset
from ibrobust.models import ZERO_ENTROPY_VARIANCE, Encoder, encode_in_batches, fit_resfc
from ibrobust.objectives import conditional_knn_entropy, entropy_bias, knn_entropy, objective_class
from ibrobust.registry.scoring import unit_batches
from ibrobust.study.spec import InformationPlane
from ibrobust.training.recipe import Recipe
from ibrobust.training.seeds import derive_seed

# The decoder of the residual information sees this many latents, each batch with noise of its own where there is any.
DECODER_BATCH = 250
DECODER_STEPS = 400


def snapshots_folder(folder: Path) -> Path:
    """Return where a cell's snapshots are."""
    return folder / "snapshots"


def snapshot_path(folder: Path, epoch: int) -> Path:
    """Return the file of a cell's encoder after an epoch."""
    return snapshots_folder(folder) / f"epoch-{epoch}.safetensors"


def has_snapshots(folder: Path, epochs: Sequence[int]) -> bool:
    """Return whether a cell's encoders after all of the epochs are there."""
    return all(snapshot_path(folder, epoch).is_file() for epoch in epochs)


def snapshot_taker(folder: Path, epochs: Sequence[int]) -> Callable[[int, Encoder], None]:
    """Return a function that stores a cell's encoder after each of the epochs."""
    from safetensors.torch import save_file

    def take(epoch: int, encoder: Encoder) -> None:
        if epoch in epochs:
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in encoder.state_dict().items()}
            with atomic_path(snapshot_path(folder, epoch)) as temporary:
                save_file(tensors, temporary)

    return take


def information_plane(
    recipe: Recipe, dataset: Dataset, plane: InformationPlane, snapshot: Path, *, device: torch.device
) -> list[dict[str, Any]]:
    """Return the information plane's rows for one snapshot (Kirsch, Lyle, Gal 2020, figure 2), all in nats.

    With Z the test images' latents, with zero-entropy noise where there was noise in training: `entropy` is H[Z], which
    is I[X; Z] where the encoder is deterministic and the noise has no entropy, `conditional_entropy` is H[Z | Y], both
    by the kNN estimator, and `label_information` is an upper bound of I[X; Y | Z] = H[Y | Z], see
    `decoder_cross_entropy`. `noise_floor`, where there was noise, is what the estimator reports of the noise alone.

    Args:
        recipe: that trained the encoder.
        dataset: its test images are used.
        plane: how many of them, and the number of neighbours.
        snapshot: file of the encoder's weights.
        device: where to compute.

    Raises:
        IbrobustError: a class has too few test images for that many neighbours.
    """
    from safetensors.torch import load_file

    test = dataset.test.subset(plane.n_examples)
    labels = test.labels.to(device)
    encoder = Encoder(width=recipe.width, latent_dim=recipe.latent_dim, fixed_power=recipe.fixed_power)
    encoder.load_state_dict(load_file(snapshot))
    clean = encode_in_batches(encoder.to(device).eval(), unit_batches(test, device))  # (N, D)
    has_noise = recipe.noise and objective_class(recipe.objective).adds_noise
    latents = with_noise(clean, recipe.seed, "entropy") if has_noise else clean
    k = plane.num_neighbors
    values = {
        "entropy": float(knn_entropy(latents, k)),
        "conditional_entropy": float(conditional_knn_entropy(latents, labels, k)),
        "label_information": decoder_cross_entropy(
            clean, labels, dataset.num_classes, noise=has_noise, units=recipe.resfc_units, seed=recipe.seed
        ),
    }
    if has_noise:
        values["noise_floor"] = entropy_bias(len(test), recipe.latent_dim, k).floor
    return [{"quantity": quantity, "value": value, "num_images": len(test)} for quantity, value in values.items()]


def decoder_cross_entropy(
    latents: Tensor, labels: Tensor, num_classes: int, *, noise: bool, units: int, seed: int
) -> float:
    """Return the cross-entropy in nats of a ResFC decoder that was fitted to the same latents (N, D) and labels (N,).

    It bounds H[Y | Z] from above where Z is one of these latents with equal chances, with zero-entropy noise if
    `noise`. Every latent is seen with many draws of the noise, and judged with another one: a decoder that had learnt
    the draws by heart would give no bound.
    """
    repeats = math.ceil(DECODER_STEPS * DECODER_BATCH / len(latents))
    if noise:
        points = with_noise(latents.repeat(repeats, 1), seed, "fit")  # (repeats * N, D)
        decoder = fit_resfc(points, labels.repeat(repeats), num_classes, seed=seed, units=units, epochs=1)
        judged = with_noise(latents, seed, "judge")
    else:
        decoder = fit_resfc(latents, labels, num_classes, seed=seed, units=units, epochs=repeats)
        judged = latents
    with torch.no_grad():
        return float(F.cross_entropy(decoder(judged), labels))


def with_noise(latents: Tensor, seed: int, purpose: str) -> Tensor:
    """Return latents (N, D) with zero-entropy noise, which follows from the seed and the purpose."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "information plane", purpose))
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    return latents + math.sqrt(ZERO_ENTROPY_VARIANCE) * noise
