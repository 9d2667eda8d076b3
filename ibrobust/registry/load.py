"""Load and copy models, and put evaluations into their cards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ibrobust.card_results import WeakerResultError, with_result
from ibrobust.data import Dataset
from ibrobust.data.names import attacked_name
from ibrobust.devices import check_device
from ibrobust.errors import IbrobustError
from ibrobust.home import models_dir
from ibrobust.registry.build import build_model
from ibrobust.registry.card import ModelCard, check_name
from ibrobust.registry.store import (
    find_card,
    held,
    model_card,
    pack_weights,
    read_model,
    refuse_duplicate,
    write_card,
    write_model,
)

# SHA-256 of all weights that this process has loaded, by the user's model folder and the model's name: the file of the
# card may be another one by the time a result is stored, if the user's own model has taken the name of a shipped one.
_loaded: dict[tuple[Path, str], set[str]] = {}


def load_model(
    name: str,
    *,
    decoder: str | None = None,
    num_samples: int | None = None,
    device: str | torch.device | None = None,
    trust: bool = False,
) -> nn.Module:
    """Return a stored model: images (B, 3, H, W) in [0, 1] -> logits (B, C), in evaluation mode.

    Args:
        name: as in `list_models`.
        decoder: one of the card's decoders; its first by default.
        num_samples: average the prediction over so many samples of the latents (dvib, ceb), drawn once, so that the
            model stays deterministic; by default their mean is decoded.
        device: where to put the model; the CPU by default.
        trust: call the function that the card names to build the model, even if it was not registered on this machine
            and no installed package names it. Only for code that you have read.

    Raises:
        IbrobustError: the model, decoder or device does not exist, there is nothing to sample, or the weights do not
            have the card's SHA-256.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = ibrobust.load_model("cross_entropy-w16-s0")
        >>> model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    card, tensors = read_model(name)
    model = build_model(
        card, tensors, decoder=decoder, num_samples=num_samples, device=check_device(device or "cpu"), trust=trust
    )
    _loaded.setdefault((models_dir(), card.name), set()).add(card.weights.sha256)
    return model


def copy_model(name: str, new_name: str) -> ModelCard:
    """Store a copy of a model under another name, without its evaluations; return the new card.

    Raises:
        IbrobustError: the model does not exist, or the new name is taken or unsafe.
    """
    check_name(new_name)
    refuse_duplicate(new_name, overwrite=False)
    card, tensors = read_model(name)
    weights, content = pack_weights(new_name, tensors)
    copied = card.model_copy(update={"name": new_name, "weights": weights, "evaluations": {}})
    write_model(copied, content, overwrite=False)
    return copied


def update_metrics(name: str, key: str, record: Mapping[str, Any]) -> ModelCard:
    """Store the result of an evaluation in a model's card under `key`, replacing an earlier one; return the card.

    Args:
        name: of the model.
        key: of the evaluation.
        record: its result.

    Raises:
        IbrobustError: the model does not exist, it ships with a package so that its card cannot be changed, or its
            weights are not the evaluated ones.
    """
    return _change_evaluations(name, None, lambda card: {**card.evaluations, key: dict(record)})


def add_evaluation(
    name: str, kind: str, decoder: str, record: Mapping[str, Any], dataset: Dataset, *, weights: str | None = None
) -> ModelCard:
    """Store the result of an evaluation of one decoder in a model's card, beside those of others; return the card.

    The record gets the data set's name, with the split if that is not the test images, and fingerprint, so that it is
    never used for other images. Results of other attacks, epsilons, images and numbers of images stay.

    Args:
        name: of the model.
        kind: of the evaluation: fgsm, attacks or audit.
        decoder: the evaluated one.
        record: the result.
        dataset: whose images were attacked.
        weights: SHA-256 of the weights that were evaluated, from a card that was read before they were; by default of
            all that this process has loaded under the name.

    Raises:
        WeakerResultError: the card holds a sweep or an audit on more images, or a full audit instead of a quick one.
        IbrobustError: as `update_metrics` does.
    """
    images = attacked_name(dataset.name, dataset.source)
    record = {**record, "dataset": images, "dataset_fingerprint": dataset.fingerprint}
    return _change_evaluations(
        name, weights, lambda card: with_result(card.evaluations, kind, decoder, record, card.dataset.fingerprint)
    )


def add_evaluations(name: str, found: Mapping[str, Mapping[str, Any]], *, weights: str | None = None) -> ModelCard:
    """Store results in a model's card, `{key: {decoder: record}}`, beside the others; return the card.

    Args:
        name: of the model.
        found: the results, by key as a card has them. Where the card holds a stronger one (`WeakerResultError`), that
            stays.
        weights: as of `add_evaluation`.

    Raises:
        IbrobustError: as `update_metrics` does.
    """

    def change(card: ModelCard) -> dict[str, Any]:
        stored = dict(card.evaluations)
        for key, records in found.items():
            for decoder, record in records.items():
                with suppress(WeakerResultError):
                    stored = with_result(stored, key.partition(" ")[0], decoder, record, card.dataset.fingerprint)
        return stored

    return _change_evaluations(name, weights, change)


def _change_evaluations(name: str, weights: str | None, change: Callable[[ModelCard], dict[str, Any]]) -> ModelCard:
    path = find_card(name)
    if path.parent != models_dir():
        raise IbrobustError(
            f"The model {name!r} ships with a package, so its card is not changed: copy it under another name first."
        )
    # Another process may be storing the result of another decoder, or overwriting the model.
    with held(name):
        card = model_card(name)
        evaluated = _loaded.get((models_dir(), card.name), set()) if weights is None else {weights}
        if evaluated - {card.weights.sha256}:
            raise IbrobustError(
                f"The model {name!r} was overwritten after it was loaded, so this result may belong to other weights "
                "than the stored ones and is not put into its card: evaluate the model again in a new process, or give "
                "the SHA-256 of the evaluated weights."
            )
        changed = card.model_copy(update={"evaluations": change(card)})
        write_card(changed)
    return changed
