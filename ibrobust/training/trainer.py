"""The training loop: steps, epochs, schedule, checkpoints and resumption."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ibrobust import processes
from ibrobust.atomic import append_json_line
from ibrobust.collectives import own_share
from ibrobust.data import Dataset, Split, to_unit_range
from ibrobust.data.augment import crop_and_flip, draw_crops, draw_flips
from ibrobust.data.batches import balanced_batches, shuffled_batches
from ibrobust.errors import IbrobustError
from ibrobust.full_precision import default_dtype
from ibrobust.function_names import short_reason
from ibrobust.isolated_rng import isolated_rng
from ibrobust.models import Encoder, ZeroEntropyNoise
from ibrobust.models.encoder import fast_memory_format
from ibrobust.objectives import Objective, objective_class
from ibrobust.seeds import derive_seed
from ibrobust.training.accelerator import build_accelerator
from ibrobust.training.batch_statistics import use_global_statistics
from ibrobust.training.build import build_modules, build_optimizer, check_fit
from ibrobust.training.checkpoint import new_checkpoint
from ibrobust.training.metrics_log import keep_epochs, read_records
from ibrobust.training.recipe import Recipe
from ibrobust.training.run_dir import precision_before, prepare_run_dir
from ibrobust.training.schedule import LearningRateSchedule
from ibrobust.training.step import TrainingStep

# Looking at the loss waits for the device. A non-finite one is remembered there, and looked for this often.
STEPS_BETWEEN_LOOKS = 20
# On a slow device that many steps take minutes. Then progress is reported in between; the device is waited for anyway.
SECONDS_BETWEEN_REPORTS = 2.0

# The file of a checkpoint with what is neither weights nor optimiser state.
POSITION = "position.json"


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        epoch: number of the epoch under way, from 1.
        epochs: epochs in all.
        step: steps done in this epoch.
        steps: steps in an epoch.
        terms: means over this epoch so far, in nats, the loss first.
        images_per_second: over this epoch so far, augmentation included.
        seconds_left: of training, at the present speed.
        device: cpu, cuda or another.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    terms: dict[str, float]
    images_per_second: float
    seconds_left: float
    device: str = "cpu"


@dataclass(frozen=True)
class TrainedEncoder:
    """The result of a run.

    Attributes:
        encoder: in evaluation mode, on the device of the run.
        objective: with its head, if it has one.
        history: one record per epoch, as in the run's metrics file.
        seconds: time spent in training, over all sittings.
        precision: of the training: no, bf16 or fp16.
    """

    encoder: Encoder
    objective: Objective
    history: list[dict[str, Any]]
    seconds: float
    precision: str


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

    Launched in several processes, by accelerate or torchrun, each calls this and takes its share of every batch; the
    result is that of one process up to rounding. They must see the same files. The main process alone writes and calls
    back; all return the same.

    Args:
        recipe: what to do.
        dataset: images; those of the training split are used, and no others.
        run_dir: folder for the run's recipe, metrics and checkpoints.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default what accelerate finds.
        resume: continue from the newest checkpoint in `run_dir`, or from the beginning if there is none, in the
            precision with which the run began.
        log_with: a tracker that accelerate knows, for example ``tensorboard``, beside the metrics file.
        initial_encoder: weights to start from, as of `Encoder.state_dict`, with the statistics by which it normalises
            images; by default drawn anew, and the statistics are those of the training images.
        on_progress: called after every few steps.
        on_epoch: called with an epoch's number and the encoder, in evaluation mode, after the epoch's training and
            before its checkpoint: a run that is killed in between does both again.

    Raises:
        IbrobustError: the recipe does not fit the data set or the number of processes, the device or tracker is not
            available, `run_dir` holds another run, or the loss is not finite.
    """
    before = precision_before(run_dir) if resume else None
    accelerator = build_accelerator(recipe, run_dir, device=device, log_with=log_with, precision=before)
    check_fit(recipe, dataset, processes=processes.count())
    checkpoint = prepare_run_dir(
        run_dir, recipe, dataset.fingerprint, precision=accelerator.mixed_precision, resume=resume
    )
    if not processes.is_main():
        on_progress = on_epoch = None
    # The caller's random state is not changed: a seed sets torch's on all GPUs, and accelerate restores all kinds.
    with isolated_rng(), default_dtype(torch.float32):
        main = processes.is_main()
        bare, step, optimizer, prepared = build_step(recipe, dataset, accelerator, initial_encoder=initial_encoder)
        encoder, objective = bare.encoder, bare.objective
        steps = len(dataset.train) // recipe.batch_size
        schedule = LearningRateSchedule(recipe, optimizer, steps_per_epoch=steps)

        metrics = run_dir / "metrics.jsonl"
        epochs_done, total_seconds = 0, 0.0
        if checkpoint is not None:
            with _readable(checkpoint):
                accelerator.load_state(str(checkpoint))
                position = json.loads((checkpoint / POSITION).read_text(encoding="utf-8"))
                schedule.load_state_dict(position["schedule"])
                epochs_done, total_seconds = position["epochs_done"], position["seconds"]
        if main:
            keep_epochs(metrics, epochs_done)
        if log_with:
            accelerator.init_trackers("ibrobust", config=_flat(recipe))

        train = dataset.train.to(accelerator.device)
        step.train()
        for epoch in range(epochs_done + 1, recipe.epochs + 1):
            started = time.perf_counter()
            learning_rate = optimizer.param_groups[0]["lr"]
            means = _train_epoch(
                recipe,
                train,
                dataset.train.labels,
                epoch,
                step,
                objective,
                prepared,
                schedule,
                accelerator,
                on_progress,
            )
            schedule.after_epoch(means["loss"], is_comparable=(epoch - 1) / recipe.epochs >= objective.settles_at)
            seconds = time.perf_counter() - started
            total_seconds += seconds
            record = {
                "epoch": epoch,
                **means,
                "learning_rate": learning_rate,
                "images_per_second": steps * recipe.batch_size / seconds,
                "seconds": seconds,
            }
            if main:
                if on_epoch:
                    encoder.eval()
                    on_epoch(epoch, encoder)
                    encoder.train()
                # Before the checkpoint: a line too many is dropped on resumption, one too few could not be made again.
                append_json_line(metrics, record)
                position = {"epochs_done": epoch, "seconds": total_seconds, "schedule": schedule.state_dict()}
                with new_checkpoint(run_dir / "checkpoints", epoch) as folder:
                    accelerator.save_state(str(folder), safe_serialization=True)
                    # Not through accelerate's own hook for such state, which unpickles whatever the file holds.
                    (folder / POSITION).write_text(json.dumps(position), encoding="utf-8")
                if log_with:
                    accelerator.log({name: value for name, value in record.items() if name != "epoch"}, step=epoch)
            processes.wait()  # longer than a collective may: a callback and a slow disk take their time
        for tracker in accelerator.trackers:
            tracker.finish()
        processes.wait()  # for the metrics, also if no epoch was left
        history, precision = read_records(metrics), accelerator.mixed_precision
        return TrainedEncoder(encoder.eval(), objective.eval(), history, total_seconds, precision)


@contextmanager
def _readable(checkpoint: Path) -> Iterator[None]:
    """Turn whatever a damaged checkpoint, or one of another version, raises in the block into an IbrobustError."""
    try:
        yield
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise IbrobustError(
            f"The checkpoint {str(checkpoint)!r} is damaged or of another version of ibrobust "
            f"({short_reason(error)}): start again with `overwrite=True`."
        ) from error


def build_step(
    recipe: Recipe, dataset: Dataset, accelerator: Any, *, initial_encoder: Mapping[str, Tensor] | None = None
) -> tuple[TrainingStep, nn.Module, torch.optim.Optimizer, Any]:
    """Return the training step and its optimiser, untrained, each as it is and as accelerate wraps it."""
    torch.manual_seed(derive_seed(recipe.seed, "initial weights"))
    encoder, objective = build_modules(recipe, dataset)
    if initial_encoder is not None:
        encoder.load_state_dict(initial_encoder)
    encoder.to(memory_format=fast_memory_format(encoder, accelerator.device))
    if accelerator.num_processes > 1:
        use_global_statistics(encoder, accelerator.device)
    noise = ZeroEntropyNoise() if recipe.noise and objective.adds_noise else nn.Identity()
    step = TrainingStep(encoder, noise, objective, compiled=recipe.compile)
    optimizer = build_optimizer(recipe, [*encoder.parameters(), *objective.parameters()])
    wrapped, prepared = accelerator.prepare(step, optimizer)
    return step, wrapped, optimizer, prepared


def _train_epoch(
    recipe: Recipe,
    train: Split,
    labels: Tensor,
    epoch: int,
    step: nn.Module,
    objective: Objective,
    optimizer: Any,
    schedule: LearningRateSchedule,
    accelerator: Any,
    on_progress: Callable[[Progress], None] | None,
) -> dict[str, float]:
    """Return the epoch's mean loss and terms in nats, the loss over the steps with the last step's terms."""
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
    counts: dict[str, int] = {}  # an objective may change its terms on the way
    bad_step = torch.full((), -1, device=device)
    started = reported = time.perf_counter()
    for index in range(steps):
        batch = own_share(batches[index])  # (B / P,)
        images = train.images[batch]  # (B / P, 3, H, W) uint8
        if recipe.augment != "none":
            images = crop_and_flip(images, own_share(offsets[index]), own_share(flips[index]))
        objective.set_progress(((epoch - 1) * steps + index) / (recipe.epochs * steps))
        total, terms = step(to_unit_range(images), train.labels[batch], batch)
        accelerator.backward(total)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.after_batch()

        bad_step = torch.where((bad_step < 0) & ~total.detach().isfinite(), index, bad_step)
        if sums and not sums.keys() >= terms.keys():  # another objective from here on: its loss is not to be mixed
            del sums["loss"], counts["loss"]
        for name, value in {"loss": total.detach(), **terms}.items():
            sums[name] = sums[name] + value if name in sums else value.clone()
            counts[name] = counts.get(name, 0) + 1
        done = index + 1
        is_look = done % STEPS_BETWEEN_LOOKS == 0 or done == steps
        if is_look and (bad := int(bad_step)) >= 0:
            raise IbrobustError(
                f"The loss was not finite in step {bad + 1} of epoch {epoch}: {_remedy_for_no_number(recipe)}."
            )
        if on_progress and (is_look or time.perf_counter() - reported > SECONDS_BETWEEN_REPORTS):
            reported = time.perf_counter()
            speed = done * recipe.batch_size / (time.perf_counter() - started)
            left = ((recipe.epochs - epoch) * steps + steps - done) * recipe.batch_size / speed
            means = {name: float(value) / counts[name] for name, value in sums.items()}
            on_progress(Progress(epoch, recipe.epochs, done, steps, means, speed, left, device.type))
    return {name: float(value) / counts[name] for name, value in sums.items()}


def _remedy_for_no_number(recipe: Recipe) -> str:
    if not recipe.noise:
        # Nothing keeps an entropy from minus infinity: all latents of a batch may end in one point.
        return (
            f"without noise the latents can collapse onto a point: train with it, or lower beta (now {recipe.beta:g}) "
            f"or the learning rate (now {recipe.learning_rate:g})"
        )
    if not recipe.balanced_batches and "num_neighbors" in objective_class(recipe.objective).options:
        return (
            f"a class may have had too few images for {recipe.num_neighbors} neighbours: set balanced_batches to true, "
            f"or lower the learning rate (now {recipe.learning_rate:g})"
        )
    return f"lower the learning rate (now {recipe.learning_rate:g}), or check the images"


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's fields as numbers and text, which trackers accept."""
    return {
        name: value if isinstance(value, (int, float, str)) else str(value)
        for name, value in recipe.model_dump(mode="json").items()
    }
