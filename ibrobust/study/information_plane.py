"""The information plane: entropies of the test latents at chosen epochs of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ibrobust.atomic import atomic_path
from ibrobust.data import Dataset, Split, to_unit_range
from ibrobust.models import Encoder, ZeroEntropyNoise, encode_in_batches, fit_resfc
from ibrobust.objectives import conditional_knn_entropy, knn_entropy, objective_class
from ibrobust.objectives.bias import entropy_bias
from ibrobust.study.spec import InformationPlane
from ibrobust.training.recipe import Recipe

ENCODING_BATCH = 500


def snapshot_taker(folder: Path, epochs: tuple[int, ...]) -> Callable[[int, Encoder], None]:
    """Return a function that stores the encoder after each of the epochs."""
    from safetensors.torch import save_file

    def take(epoch: int, encoder: Encoder) -> None:
        if epoch in epochs:
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in encoder.state_dict().items()}
            with atomic_path(snapshot_path(folder, epoch)) as temporary:
                save_file(tensors, temporary)

    return take


def snapshot_path(folder: Path, epoch: int) -> Path:
    """Return the file of the encoder after an epoch."""
    return folder / f"epoch-{epoch}.safetensors"


@torch.no_grad()
def information_plane(
    recipe: Recipe,
    dataset: Dataset,
    plane: InformationPlane,
    folder: Path,
    *,
    device: torch.device,
    stage: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Return the rows of the information plane, of every snapshot there is (Kirsch, Lyle, Gal 2020, figure 2).

    `entropy` is H[Z], which is I[X; Z] of a deterministic encoder with zero-entropy noise, and `conditional_entropy`
    H[Z | Y], both by the kNN estimator, on test latents with noise where there was noise in training.
    `label_information` is the cross-entropy of a ResFC decoder that is fitted to the same latents, an upper bound of
    I[X; Y | Z] = H[Y | Z]. `noise_floor` is what the estimator reports of the noise alone. All in nats.
    """
    from safetensors.torch import load_file

    test = dataset.test.subset(plane.n_examples)
    labels = test.labels.to(device)
    kind = objective_class(recipe.objective)
    encoder = Encoder(
        width=recipe.width, latent_dim=recipe.latent_dim * kind.outputs_per_latent, fixed_power=recipe.fixed_power
    )
    k = plane.num_neighbors
    floor = entropy_bias(len(test), recipe.latent_dim, k).floor
    rows: list[dict[str, Any]] = []
    for epoch in plane.epochs:
        path = snapshot_path(folder, epoch)
        if epoch > recipe.epochs:
            continue
        stage(f"information plane, epoch {epoch}")
        encoder.load_state_dict(load_file(path))
        latents = _latents(encoder.to(device).eval(), test, device)[:, : recipe.latent_dim]
        if recipe.noise and kind.adds_noise:
            latents = _with_noise(latents, recipe.seed)
        decoder = fit_resfc(latents, labels, dataset.num_classes, seed=recipe.seed, units=recipe.resfc_units)
        values = {
            "entropy": float(knn_entropy(latents, k)),
            "conditional_entropy": float(conditional_knn_entropy(latents, labels, k)),
            "label_information": float(F.cross_entropy(decoder(latents), labels)),
            "noise_floor": floor,
        }
        rows += [{"epoch": epoch, "quantity": q, "value": v, "num_images": len(test)} for q, v in values.items()]
    return rows


def _latents(encoder: Encoder, split: Split, device: torch.device) -> Tensor:
    return encode_in_batches(encoder, (to_unit_range(part.to(device)) for part in split.images.split(ENCODING_BATCH)))


def _with_noise(latents: Tensor, seed: int) -> Tensor:
    cuda = [latents.device] if latents.is_cuda else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        noisy: Tensor = ZeroEntropyNoise().train()(latents)
    return noisy
