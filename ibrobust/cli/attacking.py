"""What the commands that attack models share: from names on the command line to images, models and rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from ibrobust.data import Dataset, Split, load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.registry import ModelCard, list_models, load_model, model_card
from ibrobust.reporting.tables import SweepRow

DEFAULT_DATASET = "cifar10"
Target = tuple[ModelCard, str]  # a model and one of its decoders


def choose_data(dataset: str | None, names: Sequence[str], *, data_dir: Path | None) -> tuple[Dataset, str]:
    """Return the data set that was asked for, else the one the first model was trained on, with what names it."""
    if dataset is None:
        recipe = model_card(names[0]).recipe if names else None
        dataset = recipe.dataset if recipe else DEFAULT_DATASET
    return load_dataset(dataset, data_dir=data_dir), dataset


def choose_models(names: Sequence[str], decoders: Sequence[str], data: Dataset, spec: str) -> list[Target]:
    """Return every model and decoder to attack.

    Raises:
        IbrobustError: there is none, or a model does not have the data set's classes, or not that decoder.
    """
    chosen = list(dict.fromkeys(names)) or list_models(dataset_fingerprint=data.fingerprint)
    if not chosen:
        raise IbrobustError(
            f"There is no model trained on {spec}: make one with ibrobust train --dataset {spec}, or name a model."
        )
    targets = []
    for name in chosen:
        card = model_card(name)
        if card.dataset.class_names != data.class_names:
            raise IbrobustError(
                f"The model {name!r} was trained on the classes of {card.dataset.name}, which are not those of "
                f"{data.name}: give its own data set (--dataset)."
            )
        wanted = list(card.decoders) if "all" in decoders else list(dict.fromkeys(decoders)) or [card.decoders[0]]
        for decoder in wanted:
            if decoder not in card.decoders:
                raise IbrobustError(
                    f"The model {name!r} has no decoder {decoder!r}: choose from {', '.join(card.decoders)}, or all."
                )
            targets.append((card, decoder))
    return targets


def default_device(device: str | None) -> str:
    """Return the device that was asked for, else cuda where it is there."""
    return device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")


def sweep_rows(
    targets: Sequence[Target],
    test: Split,
    epsilons: Sequence[float],
    *,
    batch_size: int,
    device: str | None,
    console: Console,
) -> list[SweepRow]:
    """Return one sweep for each target, with a progress bar while they run."""
    rows = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for card, decoder in targets:
            task = bar.add_task(f"{card.name} ({decoder})", total=len(test))
            model = load_model(card.name, decoder=decoder, device=default_device(device))
            result = fgsm_sweep(
                model,
                test.images,
                test.labels,
                epsilons,
                batch_size=batch_size,
                progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),
            )
            verdict = (card.evaluations.get("audit") or {}).get(decoder, {}).get("verdict")
            rows.append(SweepRow(card.name, decoder, result, verdict))
    return rows
