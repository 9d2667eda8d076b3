"""Training a recipe into a stored model: encoder, decoders, scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from ibrobust import processes
from ibrobust.atomic import remove_folder
from ibrobust.data import Dataset, load_dataset
from ibrobust.data.dataset import check_dataset
from ibrobust.devices import check_device
from ibrobust.errors import IbrobustError
from ibrobust.full_precision import default_dtype
from ibrobust.home import require_writable_folder, runs_dir
from ibrobust.isolated_rng import isolated_rng
from ibrobust.live_line import is_watched
from ibrobust.locking import locked
from ibrobust.models import (
    FITTED_DECODERS,
    HEAD,
    ZERO_ENTROPY_VARIANCE,
    Encoder,
    FixedPower,
    encode_in_batches,
    evaluation_head,
    fit_decoder,
)
from ibrobust.models.fitted_decoder import require_fit
from ibrobust.objectives import objective_class
from ibrobust.registry.build import require_storable
from ibrobust.registry.card import ModelCard, TrainingRecord, check_name
from ibrobust.registry.provenance import hardware, library_versions
from ibrobust.registry.register import naming, store_model
from ibrobust.registry.scoring import unit_batches
from ibrobust.registry.store import model_card, read_model, refuse_duplicate
from ibrobust.training.accelerator import is_cpu
from ibrobust.training.build import build_objective_of, refuse_unused, require_training_images
from ibrobust.training.checkpoint import latest_checkpoint
from ibrobust.training.metrics_log import terms_of
from ibrobust.training.progress import TrainingProgress
from ibrobust.training.quick_checks import check_objective, check_tracker
from ibrobust.training.recipe import Recipe
from ibrobust.training.trainer import Progress, TrainedEncoder, train_encoder

T = TypeVar("T")

TRIED_PER_CLASS = 16  # random latents of each class, on which decoders of other packages are tried before the training


def train(
    recipe: Recipe,
    *,
    name: str | None = None,
    dataset: Dataset | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    log_with: str | None = None,
    progress: bool | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[int, Encoder], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> ModelCard:
    """Train a model, fit its decoders, score them on the test images, store it; return its card.

    If several processes are launched, they train together, see `train_encoder`. The main process does the rest and
    calls the callbacks.

    Args:
        recipe: every setting of the training.
        name: of the model; by default made from the recipe.
        dataset: training and test images in memory, see `Dataset.of`, instead of the recipe's data set. The card then
            has their name and fingerprint.
        data_dir: see `load_dataset`.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default the device that accelerate finds.
        resume: continue an unfinished run of this name, if there is one.
        overwrite: replace a model, or an unfinished run, of this name.
        log_with: a tracker that accelerate knows.
        progress: whether to show it; by default in a notebook or on a terminal, if neither `on_progress` nor `on_stage`
            is given.
        on_progress: called during training.
        on_epoch: called with an epoch's number and the encoder before the epoch's checkpoint, see `train_encoder`.
        on_stage: called with a few words when a step other than training begins.

    Raises:
        IbrobustError: the name is taken, unsafe, or being trained by another process, or anything that `train_encoder`
            and `load_dataset` raise.

    Examples:
        >>> import ibrobust
        >>> recipe = ibrobust.Recipe(dataset="digits", objective="cross_entropy", width=1, latent_dim=2, epochs=1)
        >>> card = ibrobust.train(recipe, name="small")
        >>> sorted(card.clean_accuracy)
        ['gaussian_mixture', 'head', 'logistic']
    """
    processes.join(cpu=is_cpu(device))
    if dataset is not None:
        check_dataset(dataset)
        recipe = naming(recipe, dataset)
    name = name if name is not None else recipe.default_name()
    check_name(name)
    require_writable_folder(runs_dir())
    refusal = f"{name!r} is being trained by another process: wait for it, or choose another `name`."
    # Of several processes that train together the main one holds the name for all.
    with (
        isolated_rng(),  # the caller's random state is not changed, also by callbacks and by resuming
        locked(runs_dir() / f"{name}.lock", refusal) if processes.is_main() else nullcontext(),
        _shown(recipe, name, progress, on_progress, on_stage) as (on_progress, on_stage),
        default_dtype(torch.float32),
    ):
        # Before any data is read.
        check_objective(recipe.objective, recipe.objective_options)
        refuse_unused(recipe)
        check_tracker(log_with)
        if device is not None:
            check_device(device)
        refuse_duplicate(name, overwrite=overwrite)
        run_dir = runs_dir() / name
        if not resume and not overwrite and latest_checkpoint(run_dir / "checkpoints"):
            raise IbrobustError(
                f"{name!r} has an unfinished run: resume it with `resume=True`, start again with `overwrite=True`, or "
                "choose another `name`."
            )
        goes_on = resume and latest_checkpoint(run_dir / "checkpoints") is not None
        initial_encoder = _encoder_weights(recipe) if recipe.warm_start and not goes_on else None
        stage = on_stage if on_stage and processes.is_main() else (lambda _: None)
        if dataset is None:
            stage(f"reading {recipe.dataset}")
            with processes.main_first():  # it downloads or decodes missing data
                dataset = load_dataset(
                    recipe.dataset,
                    data_dir=data_dir,
                    progress=lambda done, total: stage(f"decoding {recipe.dataset}, {done} of {total} images"),
                )
        require_training_images(dataset)
        channels = dataset.test.images.shape[1]
        if initial_encoder is not None and initial_encoder["mean"].numel() != channels:
            raise IbrobustError(
                f"The encoder of {recipe.warm_start!r} takes {initial_encoder['mean'].numel()} channels, and the "
                f"images of {dataset.name!r} have {channels}: give the images in as many channels, or start from "
                "another model."
            )
        decoders_of(recipe, dataset.num_classes)  # before hours are spent on a model that could not be stored
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
            store_model(
                name,
                trained.encoder,
                decoders,
                latent_dim=recipe.latent_dim,
                dataset=dataset,
                recipe=recipe,
                training=_training_record(trained),
                overwrite=overwrite,
            )
            with suppress(IbrobustError):  # the model is stored; only a run that is resumed takes a checkpoint
                remove_folder(run_dir / "checkpoints")
        processes.wait()
        return model_card(name)


@contextmanager
def _shown(
    recipe: Recipe,
    name: str,
    wanted: bool | None,
    on_progress: Callable[[Progress], None] | None,
    on_stage: Callable[[str], None] | None,
) -> Iterator[tuple[Callable[[Progress], None] | None, Callable[[str], None] | None]]:
    """Yield the two functions, which also show a live line if it is wanted."""
    console = Console(stderr=True)
    if wanted is None:
        wanted = on_progress is None and on_stage is None and is_watched(console)
    if not wanted or not processes.is_main():
        yield on_progress, on_stage
        return
    with TrainingProgress(console, name, recipe=recipe) as line:
        yield _both(line.update, on_progress), _both(line.stage, on_stage)


def _both(first: Callable[[T], None], second: Callable[[T], None] | None) -> Callable[[T], None]:
    def call(given: T) -> None:
        first(given)
        if second:
            second(given)

    return call


def decoders_of(recipe: Recipe, num_classes: int) -> tuple[str, ...]:
    """Return the names of the future model's decoders.

    Raises:
        IbrobustError: it has none, its trained head or a decoder of another package cannot be stored, or fields
            contradict each other.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random state is not changed
        head = build_objective_of(recipe, num_classes).head
        if head is not None:
            with torch.no_grad():
                for parameter in head.parameters():  # as training will: a scale may be 1 only in the beginning
                    parameter.add_(0.1 * torch.randn_like(parameter))
            evaluation_head(head)
    if head is None and not recipe.decoders:
        raise IbrobustError(
            f"The model would have no decoder: the objective {recipe.objective!r} trains none, so name at least one in "
            "decoders."
        )
    for name in recipe.decoders:
        if name not in FITTED_DECODERS:
            require_fit(name)
            _try_on_random_latents(name, recipe, num_classes)
    return recipe.decoders if head is None else (HEAD, *recipe.decoders)


def _try_on_random_latents(name: str, recipe: Recipe, num_classes: int) -> None:
    """Raise IbrobustError if a decoder of another package could not be stored."""
    with isolated_rng(0):
        labels = torch.arange(TRIED_PER_CLASS * num_classes) % num_classes
        latents = torch.randn(len(labels), recipe.latent_dim)
        try:
            decoder = fit_decoder(name, latents, labels, num_classes, noise_variance=0.0, seed=recipe.seed)
            if isinstance(decoder, nn.Module):  # else it is refused below
                decoder.eval()(latents)
        except Exception:  # such latents may be too few or too strange for it
            return
        require_storable(name, decoder, latents, num_classes)


def _encoder_weights(recipe: Recipe) -> dict[str, Tensor]:
    """Return the initial encoder weights of the recipe; raise IbrobustError if they do not fit it.

    The mean and standard deviation by which images are normalised are among them: the weights were trained with these.
    """
    assert recipe.warm_start is not None
    card, tensors = read_model(recipe.warm_start)
    outputs = recipe.latent_dim * objective_class(recipe.objective).outputs_per_latent
    wanted = {"width": recipe.width, "encoder outputs": outputs, "latent layer": True}
    there = {"width": card.width, "encoder outputs": card.encoder_outputs}
    there["latent layer"] = "encoder.latent.weight" in tensors
    differing = [f"{key} {there[key]}, not {wanted[key]}" for key in wanted if there[key] != wanted[key]]
    if differing:
        raise IbrobustError(
            f"The encoder of {card.name!r} does not fit the recipe ({'; '.join(differing)}): change the recipe, or "
            "start from another model."
        )
    prefix = "encoder."
    weights = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
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
        if kind not in FITTED_DECODERS:
            require_storable(kind, decoders[kind], latents, dataset.num_classes)
    return decoders


def _training_record(trained: TrainedEncoder) -> TrainingRecord:
    device = next(trained.encoder.parameters()).device
    speeds = sorted(record["images_per_second"] for record in trained.history)
    return TrainingRecord(
        epochs_run=trained.history[-1]["epoch"],
        seconds=round(trained.seconds, 1),
        images_per_second=round(speeds[len(speeds) // 2], 1),
        final_terms=terms_of(trained.history[-1]),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        hardware=hardware(device),
        precision=trained.precision,
        versions=library_versions(),
    )
