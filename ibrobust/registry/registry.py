"""List, train, load and register models."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust import processes
from ibrobust.data import Dataset, load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.home import models_dir, runs_dir
from ibrobust.models import (
    HEAD,
    ZERO_ENTROPY_VARIANCE,
    Encoder,
    FixedPower,
    ImageClassifier,
    decoder_name,
    encode_in_batches,
    evaluation_head,
    fit_decoder,
)
from ibrobust.objectives import objective_class
from ibrobust.registry.build import build_classifier
from ibrobust.registry.card import (
    DatasetRecord,
    ModelCard,
    TrainingRecord,
    WeightsRecord,
    check_name,
    read_card,
)
from ibrobust.registry.export import write_export
from ibrobust.registry.provenance import hardware, library_versions
from ibrobust.registry.scoring import clean_accuracy, unit_batches
from ibrobust.registry.store import card_paths, read_weights, write_card, write_weights
from ibrobust.training.accelerator import is_cpu
from ibrobust.training.checkpoint import latest_checkpoint
from ibrobust.training.recipe import Recipe
from ibrobust.training.trainer import Progress, TrainedEncoder, train_encoder


def list_models(pattern: str = "*", *, dataset_fingerprint: str | None = None) -> list[str]:
    """Return the names of all models, the user's and those that ship with ibrobust, sorted.

    Args:
        pattern: shell pattern that a name must match, for example ``"knn_ib*"``.
        dataset_fingerprint: only models trained on the data set with this fingerprint.

    Raises:
        IbrobustError: cards are asked for their data set and one of them cannot be read.
    """
    paths = {name: path for name, path in card_paths().items() if fnmatch(name, pattern)}
    if dataset_fingerprint is not None:
        paths = {
            name: path for name, path in paths.items() if read_card(path).dataset.fingerprint == dataset_fingerprint
        }
    return sorted(paths)


def model_card(name: str) -> ModelCard:
    """Return the card of a model; raise IbrobustError, with the nearest names, where there is none."""
    return read_card(_card_path(name))


def load_model(
    name: str,
    *,
    decoder: str | None = None,
    num_samples: int | None = None,
    device: str | torch.device | None = None,
) -> ImageClassifier:
    """Return a stored model: images (B, 3, H, W) in [0, 1] -> logits (B, C), in evaluation mode.

    Args:
        name: as in `list_models`.
        decoder: one of the card's decoders; its first by default.
        num_samples: average the prediction over so many samples of the latents (dvib, ceb), drawn once, so that the
            model stays deterministic; by default their mean is decoded.
        device: where to put the model; the CPU by default.

    Raises:
        IbrobustError: there is no such model, decoder or device, there is nothing to sample, or the weights do not have
            the card's SHA-256.
    """
    path = _card_path(name)
    card = read_card(path)
    target = _device(device)
    return build_classifier(card, read_weights(card, path), decoder=decoder, num_samples=num_samples, device=target)


def export_model(
    name: str,
    folder: Path,
    *,
    new_name: str | None = None,
    description: str | None = None,
    half: bool = False,
    data_dir: str | Path | None = None,
) -> ModelCard:
    """Write a stored model's card and weights into `folder`, see `write_export`, and return the card written.

    Raises:
        IbrobustError: there is no such model, or what `write_export` raises.
    """
    path = _card_path(name)
    card = read_card(path)
    tensors = read_weights(card, path)
    return write_export(card, tensors, folder, name=new_name, description=description, half=half, data_dir=data_dir)


def copy_model(name: str, new_name: str) -> ModelCard:
    """Store a model once more under another name, without what was evaluated of it; return the new card.

    Raises:
        IbrobustError: there is no such model, or the new name is taken or unsafe.
    """
    check_name(new_name)
    _refuse_duplicate(new_name, overwrite=False)
    path = _card_path(name)
    card = read_card(path)
    file, digest = write_weights(new_name, read_weights(card, path))
    weights = WeightsRecord(file=file, sha256=digest)
    copied = card.model_copy(update={"name": new_name, "weights": weights, "evaluations": {}})
    write_card(copied)
    return copied


def train(
    recipe: Recipe,
    *,
    name: str | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    log_with: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[int, Encoder], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> ModelCard:
    """Train a model, fit its decoders, score them on the test images, store it; return its card.

    Launched in several processes they train together, see `train_encoder`; the main one does the rest and calls back.

    Args:
        recipe: what to do.
        name: of the model; by default made from the recipe.
        data_dir: see `load_dataset`.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default what accelerate finds.
        resume: go on with an unfinished run of this name.
        overwrite: replace a model, or an unfinished run, of this name.
        log_with: a tracker that accelerate knows.
        on_progress: called during training.
        on_epoch: called with an epoch's number and the encoder before the epoch's checkpoint, see `train_encoder`.
        on_stage: called with a few words when something else than training begins.

    Raises:
        IbrobustError: the name is taken or unsafe, or anything that `train_encoder` and `load_dataset` raise.
    """
    processes.join(cpu=is_cpu(device))
    name = name if name is not None else recipe.default_name()
    check_name(name)
    _refuse_duplicate(name, overwrite=overwrite)
    run_dir = runs_dir() / name
    if not resume and not overwrite and latest_checkpoint(run_dir / "checkpoints"):
        raise IbrobustError(
            f"There is an unfinished run of {name!r}: go on with it (--resume), begin again (--overwrite), or choose "
            "another name (--name)."
        )
    initial_encoder = _encoder_weights(recipe) if recipe.warm_start else None
    stage = on_stage if on_stage and processes.is_main() else (lambda _: None)
    stage(f"reading {recipe.dataset}")
    with processes.main_first():  # which downloads or decodes what is not there yet
        dataset = load_dataset(recipe.dataset, data_dir=data_dir)
    stage("training")
    trained = train_encoder(
        recipe,
        dataset,
        run_dir,
        device=device,
        resume=resume,
        log_with=log_with,
        initial_encoder=initial_encoder,
        on_progress=on_progress,
        on_epoch=on_epoch,
    )
    if processes.is_main():
        decoders = _decoders(recipe, dataset, trained, stage)
        stage("scoring")
        _store(
            name,
            trained.encoder,
            decoders,
            latent_dim=recipe.latent_dim,
            dataset=dataset,
            recipe=recipe,
            training=_training_record(trained),
        )
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    processes.wait()
    return model_card(name)


def register_model(
    name: str,
    model: ImageClassifier,
    *,
    dataset: Dataset,
    recipe: Recipe | None = None,
    description: str = "",
    overwrite: bool = False,
) -> ModelCard:
    """Store a classifier that was made outside `train`; return its card.

    Args:
        name: a safe file name that is not taken.
        model: an `ImageClassifier` of ibrobust's encoder and one of its decoders.
        dataset: what it was trained on; its accuracy is measured on the test images.
        recipe: how it was trained, if that can be said in a recipe.
        description: one sentence for the card.
        overwrite: replace a model of this name.

    Raises:
        IbrobustError: the name is taken or unsafe, or the model is not of that form.
    """
    check_name(name)
    _refuse_duplicate(name, overwrite=overwrite)
    if not isinstance(model, ImageClassifier) or not isinstance(model.encoder, Encoder):
        raise IbrobustError(
            f"A {type(model).__name__} cannot be stored: give an ibrobust.ImageClassifier, or attack the "
            "module as it is."
        )
    return _store(
        name,
        model.encoder,
        {decoder_name(model.decoder): model.decoder},
        latent_dim=model.latent_dim,
        dataset=dataset,
        recipe=recipe,
        training=None,
        description=description,
    )


def update_metrics(name: str, key: str, record: Mapping[str, Any]) -> ModelCard:
    """Put the result of an evaluation into a model's card under `key`, in place of an earlier one; return the card.

    Raises:
        IbrobustError: there is no such model, or it ships with a package and its card is not the user's to change.
    """
    path = _card_path(name)
    if path.parent != models_dir():
        raise IbrobustError(f"The model {name!r} is not in your own model folder: its card is not changed.")
    card = read_card(path)
    changed = card.model_copy(update={"evaluations": {**card.evaluations, key: dict(record)}})
    write_card(changed)
    return changed


def add_evaluation(name: str, key: str, decoder: str, record: Mapping[str, Any], dataset: Dataset) -> ModelCard:
    """Put what an evaluation found of one decoder into a model's card, beside other decoders'; return the card.

    The record gets the data set's name and fingerprint, so that it is never lent to other images.

    Raises:
        IbrobustError: as `update_metrics` does.
    """
    stored = model_card(name).evaluations.get(key) or {}
    record = {**record, "dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint}
    return update_metrics(name, key, {**stored, decoder: record})


def _card_path(name: str) -> Path:
    paths = card_paths()
    if name in paths:
        return paths[name]
    near = difflib.get_close_matches(name, paths, n=3, cutoff=0.4)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif paths:
        hint = "ibrobust list shows all."
    else:
        hint = "there are none yet; ibrobust train makes one."
    raise IbrobustError(f"There is no model {name!r}: {hint}")


def _refuse_duplicate(name: str, *, overwrite: bool) -> None:
    if not overwrite and name in card_paths():
        raise IbrobustError(
            f"There is already a model {name!r}: choose another name (--name) or replace it (--overwrite)."
        )


def _device(device: str | torch.device | None) -> torch.device:
    try:
        target = torch.device(device if device is not None else "cpu")
        if target.type == "cuda":
            torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise IbrobustError(f"The device {str(device)!r} is not there: use cpu, or a GPU that torch sees.") from error
    return target


def _encoder_weights(recipe: Recipe) -> dict[str, Tensor]:
    """Return the weights of the encoder that the recipe starts from; raise IbrobustError where they do not fit it."""
    assert recipe.warm_start is not None
    path = _card_path(recipe.warm_start)
    card = read_card(path)
    outputs = recipe.latent_dim * objective_class(recipe.objective).outputs_per_latent
    wanted = {"width": recipe.width, "encoder outputs": outputs}
    there = {"width": card.width, "encoder outputs": card.encoder_outputs}
    differing = [f"{key} {there[key]}, not {wanted[key]}" for key in wanted if there[key] != wanted[key]]
    if differing:
        raise IbrobustError(
            f"The encoder of {card.name!r} does not fit the recipe ({'; '.join(differing)}): change the recipe, or "
            "start from another model."
        )
    prefix = "encoder."
    weights = {key.removeprefix(prefix): t for key, t in read_weights(card, path).items() if key.startswith(prefix)}
    # The latents' mean and power are statistics: the training finds its own.
    weights = {key: tensor.float() for key, tensor in weights.items() if not key.startswith("power.")}
    if recipe.fixed_power:
        weights |= {f"power.{key}": tensor for key, tensor in FixedPower(outputs).state_dict().items()}
    return weights


def _decoders(
    recipe: Recipe, dataset: Dataset, trained: TrainedEncoder, stage: Callable[[str], None]
) -> dict[str, nn.Module]:
    decoders: dict[str, nn.Module] = {}
    if trained.objective.head is not None:
        decoders[HEAD] = evaluation_head(trained.objective.head)
    if not recipe.decoders:
        return decoders
    stage("encoding the training images")
    device = next(trained.encoder.parameters()).device
    latents = encode_in_batches(trained.encoder, unit_batches(dataset.train, device))[:, : recipe.latent_dim]
    labels = dataset.train.labels.to(device)
    noise_variance = ZERO_ENTROPY_VARIANCE if recipe.noise and trained.objective.adds_noise else 0.0
    for kind in recipe.decoders:
        stage(f"fitting the {kind} decoder")
        decoders[kind] = fit_decoder(
            kind,
            latents,
            labels,
            dataset.num_classes,
            noise_variance=noise_variance,
            seed=recipe.seed,
            resfc_units=recipe.resfc_units,
        )
    return decoders


def _store(
    name: str,
    encoder: Encoder,
    decoders: Mapping[str, nn.Module],
    *,
    latent_dim: int,
    dataset: Dataset,
    recipe: Recipe | None,
    training: TrainingRecord | None,
    description: str = "",
) -> ModelCard:
    if not decoders:
        raise IbrobustError(
            f"The model {name!r} would have no decoder: its objective trains none, so name at least one in decoders."
        )
    accuracy = clean_accuracy(encoder, decoders, latent_dim, dataset)
    tensors = {f"encoder.{key}": tensor for key, tensor in encoder.state_dict().items()}
    for kind, decoder in decoders.items():
        tensors |= {f"decoders.{kind}.{key}": tensor for key, tensor in decoder.state_dict().items()}
    file, digest = write_weights(name, tensors)
    card = ModelCard(
        name=name,
        description=description,
        recipe=recipe,
        dataset=DatasetRecord(
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            class_names=dataset.class_names,
            num_train=len(dataset.train),
            num_test=len(dataset.test),
        ),
        width=encoder.width,
        latent_dim=latent_dim,
        encoder_outputs=encoder.latent_dim,
        fixed_power=isinstance(encoder.power, FixedPower),
        decoders=tuple(decoders),
        weights=WeightsRecord(file=file, sha256=digest),
        training=training,
        clean_accuracy=accuracy,
    )
    write_card(card)
    return card


def _training_record(trained: TrainedEncoder) -> TrainingRecord:
    last = trained.history[-1]
    device = next(trained.encoder.parameters()).device
    described = {"epoch", "learning_rate", "images_per_second", "seconds"}
    speeds = sorted(record["images_per_second"] for record in trained.history)
    return TrainingRecord(
        epochs_run=len(trained.history),
        seconds=round(trained.seconds, 1),
        images_per_second=round(speeds[len(speeds) // 2], 1),
        final_terms={key: value for key, value in last.items() if key not in described},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        hardware=hardware(device.type),
        versions=library_versions(),
    )
