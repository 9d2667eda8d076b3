"""A stored model as two files to share: without paths of this machine, and in half precision on request."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ibrobust.atomic import atomic_path, require_folder, write_text
from ibrobust.data import load_dataset
from ibrobust.data.names import portable_name
from ibrobust.errors import IbrobustError
from ibrobust.home import models_dir
from ibrobust.models import HEAD
from ibrobust.models.gaussian_mixture import pack_triangles
from ibrobust.registry.build import build_classifier
from ibrobust.registry.card import ModelCard, check_name, require_replaceable
from ibrobust.registry.outside import build_outside, probe_of
from ibrobust.registry.scoring import clean_accuracy, module_accuracy
from ibrobust.registry.store import pack_weights, read_model

HALF = torch.finfo(torch.float16)
MIXTURE_FACTORS = "decoders.gaussian_mixture.whitening"


def portable_card(card: ModelCard) -> ModelCard:
    """Return the card with the data set's name instead of its path on this machine."""
    images = portable_name(card.images, card.dataset.name)
    if card.recipe is not None:
        return card.model_copy(update={"recipe": card.recipe.model_copy(update={"dataset": images})})
    source = images if images != card.dataset.name else None
    return card.model_copy(update={"dataset": card.dataset.model_copy(update={"source": source})})


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with convolutions' and linear layers' in float16; they are float32 again when loaded.

    Vectors, the statistics of normalisation among them, stay as they are, and so do layers whose weights are beyond the
    range of float16, and the Gaussian mixture, whose factors are; but these triangles are kept without their zeros.
    """

    def is_layer(key: str, tensor: Tensor) -> bool:
        return tensor.dtype == torch.float32 and tensor.dim() >= 2 and not key.startswith("decoders.gaussian_mixture.")

    def rounds_well(tensor: Tensor) -> bool:
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        return largest == 0.0 or HALF.tiny <= largest <= HALF.max

    rounded = {
        key: tensor.half() if is_layer(key, tensor) and rounds_well(tensor) else tensor
        for key, tensor in tensors.items()
    }
    factors = tensors.get(MIXTURE_FACTORS)
    if factors is not None and factors.dim() == 3:  # those of an exported model are packed already
        rounded[MIXTURE_FACTORS] = pack_triangles(factors)
    return rounded


def export_model(
    name: str,
    folder: str | Path,
    *,
    new_name: str | None = None,
    description: str | None = None,
    half: bool = False,
    data_dir: str | Path | None = None,
) -> ModelCard:
    """Write a stored model's card and weights into `folder`, and return the card written.

    With `half` the weights are rounded. If this changes any, they are another model: its clean accuracy is measured
    again on the images that the card names, and results of earlier evaluations are left out.

    Args:
        name: of the model.
        folder: where to write; created if missing.
        new_name: of the exported model; by default as before.
        description: one sentence for the card; by default as before.
        half: see `halved`.
        data_dir: see `load_dataset`.

    Raises:
        IbrobustError: the model does not exist, the new name is unsafe, or the folder is that of the stored models,
            cannot be made, or has a file of the card's name that is no card; or, with `half`, the data set cannot be
            read again or has changed.
    """
    folder = Path(folder)
    if folder.resolve() == models_dir().resolve():
        raise IbrobustError(
            f"{str(folder)!r} holds the stored models, which an export may replace: give another folder."
        )
    card, tensors = read_model(name)
    name = new_name if new_name is not None else name
    check_name(name)
    require_replaceable(folder / f"{name}.yaml")
    require_folder(folder, parents=True)
    update: dict[str, object] = {"name": name}
    if description is not None:
        update["description"] = description
    changed = False
    if half:
        rounded = halved(tensors)
        changed, tensors = not _same_numbers(tensors, rounded), rounded
    if changed:
        if card.architecture is not None:
            # The rounded weights give other numbers.
            unprobed = card.architecture.model_copy(update={"probe": None})
            card = card.model_copy(update={"architecture": unprobed})
            probed, _ = probe_of(build_outside(card, tensors, device=torch.device("cpu")), card)
            update["architecture"] = unprobed.model_copy(update={"probe": probed})
        update |= {"evaluations": {}, "clean_accuracy": _accuracy(card, tensors, data_dir)}
    for path in _paths_of_code(card):
        warnings.warn(
            f"The card keeps the path {path!r}, an option of the code that builds or trains the model.", stacklevel=2
        )
    weights, content = pack_weights(name, tensors)
    exported = portable_card(card).model_copy(update={**update, "weights": weights})
    with atomic_path(folder / weights.file) as temporary:
        temporary.write_bytes(content)
    write_text(folder / f"{name}.yaml", exported.to_text())  # last: it names the weights
    return exported


def _paths_of_code(card: ModelCard) -> list[str]:
    """Return the absolute paths among the options of an objective's or a factory's code, which only it can read."""
    options = [*(card.recipe.objective_options.values() if card.recipe is not None else ())]
    options += [*(card.architecture.arguments.values() if card.architecture is not None else ())]
    return [value for value in options if isinstance(value, str) and Path(value).is_absolute()]


def _same_numbers(tensors: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> bool:
    """Return whether rounding changed nothing, as of a model that was exported so before."""
    return all(torch.equal(tensor, rounded[key].to(tensor.dtype)) for key, tensor in tensors.items())


def _accuracy(card: ModelCard, tensors: Mapping[str, Tensor], data_dir: str | Path | None) -> dict[str, object]:
    try:
        dataset = load_dataset(card.images, data_dir=data_dir)
    except IbrobustError as error:
        problem = str(error).rpartition(": ")[0]
        raise IbrobustError(f"{problem}: restore the images, or export the model without `half`.") from error
    if dataset.fingerprint != card.dataset.fingerprint:
        raise IbrobustError(
            f"The images in {card.images!r} are not those that {card.name!r} was scored on: restore them, or "
            "export it without `half`."
        )
    cpu = torch.device("cpu")
    if card.architecture is not None:
        return {HEAD: module_accuracy(build_outside(card, tensors, device=cpu), dataset)}
    assert card.latent_dim is not None
    models = {kind: build_classifier(card, tensors, decoder=kind, device=cpu) for kind in card.decoders}
    encoder = next(iter(models.values())).encoder
    return dict(clean_accuracy(encoder, {k: m.decoder for k, m in models.items()}, card.latent_dim, dataset))
