"""List, load, copy and export models, and put evaluations into their cards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ibrobust.data import Dataset
from ibrobust.errors import IbrobustError
from ibrobust.home import models_dir
from ibrobust.locking import locked
from ibrobust.models import ImageClassifier
from ibrobust.registry.build import build_classifier
from ibrobust.registry.card import ModelCard, WeightsRecord, check_name, read_card
from ibrobust.registry.export import write_export
from ibrobust.registry.store import find_card, read_weights, refuse_duplicate, write_card, write_weights

SECONDS_FOR_A_CARD = 10.0


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
    path = find_card(name)
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
    path = find_card(name)
    card = read_card(path)
    tensors = read_weights(card, path)
    return write_export(card, tensors, folder, name=new_name, description=description, half=half, data_dir=data_dir)


def copy_model(name: str, new_name: str) -> ModelCard:
    """Store a model once more under another name, without what was evaluated of it; return the new card.

    Raises:
        IbrobustError: there is no such model, or the new name is taken or unsafe.
    """
    check_name(new_name)
    refuse_duplicate(new_name, overwrite=False)
    path = find_card(name)
    card = read_card(path)
    file, digest = write_weights(new_name, read_weights(card, path))
    weights = WeightsRecord(file=file, sha256=digest)
    copied = card.model_copy(update={"name": new_name, "weights": weights, "evaluations": {}})
    write_card(copied)
    return copied


def update_metrics(name: str, key: str, record: Mapping[str, Any]) -> ModelCard:
    """Put the result of an evaluation into a model's card under `key`, in place of an earlier one; return the card.

    Raises:
        IbrobustError: there is no such model, or it ships with a package and its card is not the user's to change.
    """
    return _change_evaluations(name, lambda stored: {**stored, key: dict(record)})


def add_evaluation(name: str, key: str, decoder: str, record: Mapping[str, Any], dataset: Dataset) -> ModelCard:
    """Put what an evaluation found of one decoder into a model's card, beside other decoders'; return the card.

    The record gets the data set's name and fingerprint, so that it is never lent to other images.

    Raises:
        IbrobustError: as `update_metrics` does.
    """
    record = {**record, "dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint}
    return _change_evaluations(name, lambda stored: {**stored, key: {**(stored.get(key) or {}), decoder: record}})


def _change_evaluations(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> ModelCard:
    path = find_card(name)
    if path.parent != models_dir():
        raise IbrobustError(f"The model {name!r} is not in your own model folder: its card is not changed.")
    # Another process may be putting in what it found of another decoder.
    refusal = f"The card of {name!r} is being changed by another process: try again."
    with locked(models_dir() / f"{name}.lock", refusal, seconds=SECONDS_FOR_A_CARD):
        card = read_card(path)
        changed = card.model_copy(update={"evaluations": change(dict(card.evaluations))})
        write_card(changed)
    return changed


def _device(device: str | torch.device | None) -> torch.device:
    try:
        target = torch.device(device if device is not None else "cpu")
        if target.type == "cuda":
            torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise IbrobustError(f"The device {str(device)!r} is not there: use cpu, or a GPU that torch sees.") from error
    return target
