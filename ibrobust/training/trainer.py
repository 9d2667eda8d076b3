"""The training loop: steps, epochs, schedule, checkpoints and resumption."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust.data import Dataset, Split, channel_statistics, to_unit_range
from ibrobust.data.augment import crop_and_flip, draw_crops, draw_flips
from ibrobust.data.batches import balanced_batches, shuffled_batches
from ibrobust.errors import IbrobustError
from ibrobust.models import Encoder, ZeroEntropyNoise, build_head
from ibrobust.models.encoder import fast_memory_format
from ibrobust.objectives import Objective, build_objective, objective_class
from ibrobust.training.checkpoint import latest_checkpoint, new_checkpoint
from ibrobust.training.metrics_log import append_record, keep_epochs, read_records
from ibrobust.training.recipe import Recipe
from ibrobust.training.schedule import LearningRateSchedule
from ibrobust.training.seeds import derive_seed

# Looking at the loss waits for the device. A non-finite one is remembered there, and looked for this often.
STEPS_BETWEEN_LOOKS = 20

# The file of a checkpoint with what is neither weights nor optimiser state.
POSITION = "position.json"


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        epoch: number of the epoch under way, from 1.
        epochs: epochs in all.
        step: steps done in this epoch.
        steps: steps in an epoch.
        terms: means over this epoch so far, in nats, the loss first.
        images_per_second: over this epoch so far, augmentation included.
        seconds_left: of training, at the present speed.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    terms: dict[str, float]
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class TrainedEncoder:
    """What a run gives.

    Attributes:
        encoder: in evaluation mode, on the device of the run.
        objective: with its head, where it has one.
        history: one record an epoch, as in the run's metrics file.
        seconds: time spent in training, over all sittings.
    """

    encoder: Encoder
    objective: Objective
    history: list[dict[str, Any]]
    seconds: float


class _Step(nn.Module):
    """Encoder, noise and objective as one module, so that whatever wraps a model for training wraps all of them."""

    def __init__(self, encoder: Encoder, noise: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.encoder = encoder
        self.noise = noise
        self.objective = objective

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        images = self.objective.training_images(images, labels, self._latents)
        loss = self.objective(self._latents(images), labels)
        return loss.total, dict(loss.terms)

    def _latents(self, images: Tensor) -> Tensor:
        latents: Tensor = self.noise(self.encoder(images))
        return latents


def train_encoder(
    recipe: Recipe,
    dataset: Dataset,
    run_dir: Path,
    *,
    device: str | None = None,
    resume: bool = False,
    log_with: str | None = None,
    initial_encoder: Mapping[str, Tensor] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[int, Encoder], None] | None = None,
) -> TrainedEncoder:
    """Return the encoder trained by `recipe`, bit for bit the same on one machine's CPU however often it was resumed.

    Args:
        recipe: what to do.
        dataset: images; those of the training split are used, and no others.
        run_dir: folder for the run's recipe, metrics and checkpoints.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default what accelerate finds.
        resume: go on from the newest checkpoint in `run_dir`; from the beginning where there is none.
        log_with: a tracker that accelerate knows, for example ``tensorboard``, beside the metrics file.
        initial_encoder: weights to start from, as of `Encoder.state_dict`; by default drawn anew.
        on_progress: called after every few steps.
        on_epoch: called with an epoch's number and the encoder, in evaluation mode, after the epoch's training and
            before its checkpoint: a run that is killed in between does both again.

    Raises:
        IbrobustError: the recipe does not fit the data set, the device or tracker is not there, `run_dir` holds
            another run, or the loss is not finite.
    """
    _check_fit(recipe, dataset)
    accelerator = _accelerator(recipe, run_dir, device=device, log_with=log_with)
    _prepare_run_dir(run_dir, recipe, resume=resume)
    cuda = [torch.cuda.current_device()] if accelerator.device.type == "cuda" else []
    # The caller's random state is left as it was.
    with torch.random.fork_rng(devices=cuda):
        return _run(
            recipe,
            dataset,
            run_dir,
            accelerator,
            log_with=log_with,
            initial_encoder=initial_encoder,
            on_progress=on_progress,
            on_epoch=on_epoch,
        )


def _run(
    recipe: Recipe,
    dataset: Dataset,
    run_dir: Path,
    accelerator: Any,
    *,
    log_with: str | None,
    initial_encoder: Mapping[str, Tensor] | None,
    on_progress: Callable[[Progress], None] | None,
    on_epoch: Callable[[int, Encoder], None] | None,
) -> TrainedEncoder:
    torch.manual_seed(derive_seed(recipe.seed, "initial weights"))
    encoder, objective = build_modules(recipe, dataset)
    if initial_encoder is not None:
        encoder.load_state_dict(initial_encoder)
    encoder.to(memory_format=fast_memory_format(encoder, accelerator.device))
    noise = ZeroEntropyNoise() if recipe.noise and objective.adds_noise else nn.Identity()
    optimizer = _optimizer(recipe, [*encoder.parameters(), *objective.parameters()])
    steps = len(dataset.train) // recipe.batch_size
    schedule = LearningRateSchedule(recipe, optimizer, steps_per_epoch=steps)
    step, prepared = accelerator.prepare(_Step(encoder, noise, objective), optimizer)

    metrics = run_dir / "metrics.jsonl"
    epochs_done, total_seconds = 0, 0.0
    checkpoint = latest_checkpoint(run_dir / "checkpoints")
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint))
        position = json.loads((checkpoint / POSITION).read_text(encoding="utf-8"))
        schedule.load_state_dict(position["schedule"])
        epochs_done, total_seconds = position["epochs_done"], position["seconds"]
    keep_epochs(metrics, epochs_done)
    if log_with:
        accelerator.init_trackers("ibrobust", config=_flat(recipe))

    train = dataset.train.to(accelerator.device)
    step.train()
    for epoch in range(epochs_done + 1, recipe.epochs + 1):
        started = time.perf_counter()
        learning_rate = optimizer.param_groups[0]["lr"]
        means = _train_epoch(
            recipe, train, dataset.train.labels, epoch, step, prepared, schedule, accelerator, on_progress
        )
        schedule.after_epoch(means["loss"])
        seconds = time.perf_counter() - started
        total_seconds += seconds
        record = {
            "epoch": epoch,
            **means,
            "learning_rate": learning_rate,
            "images_per_second": steps * recipe.batch_size / seconds,
            "seconds": seconds,
        }
        if on_epoch:
            encoder.eval()
            on_epoch(epoch, encoder)
            encoder.train()
        # Before the checkpoint: a line too many is dropped on resumption, a line too few could not be made again.
        append_record(metrics, record)
        position = {"epochs_done": epoch, "seconds": total_seconds, "schedule": schedule.state_dict()}
        with new_checkpoint(run_dir / "checkpoints", epoch) as folder:
            accelerator.save_state(str(folder), safe_serialization=True)
            # Not through accelerate's own hook for such state, which unpickles whatever the file holds.
            (folder / POSITION).write_text(json.dumps(position), encoding="utf-8")
        if log_with:
            accelerator.log({name: value for name, value in record.items() if name != "epoch"}, step=epoch)
    if log_with:
        accelerator.end_training()
    return TrainedEncoder(encoder.eval(), objective.eval(), read_records(metrics), total_seconds)


def _train_epoch(
    recipe: Recipe,
    train: Split,
    labels: Tensor,
    epoch: int,
    step: nn.Module,
    optimizer: Any,
    schedule: LearningRateSchedule,
    accelerator: Any,
    on_progress: Callable[[Progress], None] | None,
) -> dict[str, float]:
    """Return the epoch's mean loss and terms in nats."""
    device = accelerator.device
    # Everything random in an epoch follows from its number, so a resumed run needs no saved random state.
    torch.manual_seed(derive_seed(recipe.seed, "noise", epoch))
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "batches", epoch))
    draw = balanced_batches if recipe.balanced_batches else shuffled_batches
    batches = draw(labels, recipe.batch_size, generator)  # (steps, B)
    offsets = draw_crops(batches.numel(), generator).view(*batches.shape, 2).to(device)
    flips = draw_flips(batches.numel(), generator).view(batches.shape).to(device)
    if recipe.augment != "crop_flip":
        flips.zero_()
    batches = batches.to(device)

    steps = len(batches)
    sums: dict[str, Tensor] = {}
    bad_step = torch.full((), -1, device=device)
    started = time.perf_counter()
    for index in range(steps):
        images = train.images[batches[index]]  # (B, 3, H, W) uint8
        if recipe.augment != "none":
            images = crop_and_flip(images, offsets[index], flips[index])
        total, terms = step(to_unit_range(images), train.labels[batches[index]])
        accelerator.backward(total)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.after_batch()

        bad_step = torch.where((bad_step < 0) & ~total.detach().isfinite(), index, bad_step)
        for name, value in {"loss": total.detach(), **terms}.items():
            sums[name] = sums[name] + value if name in sums else value.clone()
        done = index + 1
        if done % STEPS_BETWEEN_LOOKS == 0 or done == steps:
            if (bad := int(bad_step)) >= 0:
                raise IbrobustError(
                    f"The loss was not finite in step {bad + 1} of epoch {epoch}: lower the learning rate "
                    f"(now {recipe.learning_rate:g}), or look at the images."
                )
            if on_progress:
                speed = done * recipe.batch_size / (time.perf_counter() - started)
                left = ((recipe.epochs - epoch) * steps + steps - done) * recipe.batch_size / speed
                means = {name: float(value) / done for name, value in sums.items()}
                on_progress(Progress(epoch, recipe.epochs, done, steps, means, speed, left))
    return {name: float(value) / steps for name, value in sums.items()}


def build_modules(recipe: Recipe, dataset: Dataset) -> tuple[Encoder, Objective]:
    """Return the encoder, normalising by the training images' statistics, and the objective of a recipe, untrained."""
    kind = objective_class(recipe.objective)
    mean, std = channel_statistics(dataset.train.images)
    encoder = Encoder(
        width=recipe.width,
        latent_dim=recipe.latent_dim * kind.outputs_per_latent,
        mean=mean,
        std=std,
        fixed_power=recipe.fixed_power,
    )
    options = {name: getattr(recipe, name) for name in kind.options if name != "head"}
    if "head" in kind.options:
        options["head"] = build_head(
            recipe.latent_dim, dataset.num_classes, dropout=recipe.dropout, dropconnect=recipe.dropconnect
        )
    elif recipe.dropout or recipe.dropconnect:
        raise IbrobustError(
            f"The objective {recipe.objective!r} trains no linear head, so dropout {recipe.dropout:g} and dropconnect "
            f"{recipe.dropconnect:g} would do nothing: leave them out, or choose cross_entropy."
        )
    objective = build_objective(
        recipe.objective,
        latent_dim=recipe.latent_dim,
        num_classes=dataset.num_classes,
        **options,
        **recipe.objective_options,
    )
    return encoder, objective


def _check_fit(recipe: Recipe, dataset: Dataset) -> None:
    if len(dataset.train) < recipe.batch_size:
        raise IbrobustError(
            f"The batch size {recipe.batch_size} is larger than the training set of {len(dataset.train)} images: "
            "lower it."
        )
    per_class = recipe.batch_size // dataset.num_classes
    needs_neighbors = "num_neighbors" in objective_class(recipe.objective).options
    if needs_neighbors and recipe.neighbor_sharpness is None and per_class <= recipe.num_neighbors:
        raise IbrobustError(
            f"A batch of {recipe.batch_size} has {per_class} images of each of the {dataset.num_classes} classes, too "
            f"few for {recipe.num_neighbors} neighbours in every class: raise the batch size to "
            f"{(recipe.num_neighbors + 1) * dataset.num_classes} or more, or lower num_neighbors."
        )


def _prepare_run_dir(run_dir: Path, recipe: Recipe, *, resume: bool) -> None:
    stored = run_dir / "recipe.yaml"
    if resume and stored.is_file():
        before = Recipe.from_yaml(stored)
        differing = [
            f"{name} = {getattr(before, name)!r}, now {getattr(recipe, name)!r}"
            for name in Recipe.model_fields
            if getattr(before, name) != getattr(recipe, name)
        ]
        if differing:
            raise IbrobustError(
                f"The run in {str(run_dir)!r} has another recipe ({'; '.join(differing)}): resume it with the recipe "
                "it began with, or give this one another name."
            )
        return
    shutil.rmtree(run_dir, ignore_errors=True)
    recipe.to_yaml(stored)


def _accelerator(recipe: Recipe, run_dir: Path, *, device: str | None, log_with: str | None) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if device is not None:
        _choose_device(device)
    _check_tracker(log_with)
    # accelerate keeps one state a process and refuses a second with another precision; a study trains several.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        cpu=device is not None and torch.device(device).type == "cpu",
        log_with=log_with,
        project_dir=str(run_dir),
    )
    if accelerator.num_processes > 1:
        raise IbrobustError(
            f"Training was launched on {accelerator.num_processes} processes, but the entropy of a batch is estimated "
            "within one: launch a single process."
        )
    return accelerator


def _choose_device(device: str) -> None:
    """Make `device` the one that accelerate will take; raise IbrobustError where it is not there."""
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise IbrobustError(f"There is no device {device!r}: use cpu, cuda or cuda:N.") from error
    if wanted.type == "cpu":
        return
    if wanted.type != "cuda" or not torch.cuda.is_available() or (wanted.index or 0) >= torch.cuda.device_count():
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise IbrobustError(f"The device {device!r} is not there: use {' or '.join(there)}.")
    torch.cuda.set_device(wanted.index or 0)


def _check_tracker(log_with: str | None) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if log_with is None:
        return
    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    if log_with not in known:
        raise IbrobustError(f"There is no tracker {log_with!r}: use one of {', '.join(known)}.")
    package = {"comet_ml": "comet_ml", "tensorboard": "tensorboard"}.get(log_with, log_with)
    if importlib.util.find_spec(package) is None:
        raise IbrobustError(f"The tracker {log_with!r} is not installed: pip install {package}.")


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Trackers take numbers and text only."""
    return {
        name: value if isinstance(value, (int, float, str)) else str(value)
        for name, value in recipe.model_dump(mode="json").items()
    }
