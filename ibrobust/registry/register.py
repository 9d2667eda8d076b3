"""Storing a classifier from memory: its accuracy, weights and card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from ibrobust.data import Dataset
from ibrobust.data.dataset import check_dataset
from ibrobust.data.names import MEMORY
from ibrobust.errors import IbrobustError
from ibrobust.isolated_rng import isolated_rng
from ibrobust.models import (
    HEAD,
    DropConnectLinear,
    Encoder,
    FixedPower,
    ImageClassifier,
    MLPHead,
    decoder_name,
    evaluation_head,
)
from ibrobust.registry.build import build_classifier
from ibrobust.registry.card import DatasetRecord, ModelCard, TrainingRecord, check_name
from ibrobust.registry.factories import allow
from ibrobust.registry.outside import build_outside, describe, probe_of
from ibrobust.registry.same_function import OUTSIDE_REMEDY, OWN_REMEDY, require_same_function
from ibrobust.registry.scoring import clean_accuracy, module_accuracy
from ibrobust.registry.store import pack_weights, refuse_duplicate, write_model
from ibrobust.training.recipe import Recipe

HEADS = (nn.Linear, DropConnectLinear, MLPHead, nn.Sequential)  # what `build_head` and `evaluation_head` return


def register_model(
    name: str,
    model: nn.Module,
    *,
    dataset: Dataset,
    factory: str | Callable[..., Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
    description: str = "",
    overwrite: bool = False,
) -> ModelCard:
    """Store a classifier made outside `train`; return its card.

    The model is stored only if it loads as the same function: it is built again, and its logits and gradients are
    compared on some images.

    Args:
        name: a safe file name that is not taken.
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), in float32: any module, also inside
            `ibrobust.normalized`, `logits_of`, `two_logits` or `resized`.
        dataset: its training data; its accuracy is measured on the test images.
        factory: the function or class that builds the innermost module, or its name ``package.module:function``,
            ``timm:NAME`` or ``torchvision:NAME``. An `ImageClassifier` of ibrobust's encoder and one of its decoders
            needs none.
        arguments: of the factory, by keyword: numbers, text, lists and dictionaries.
        recipe: its training, if a recipe can describe it. In the card its data set is `dataset`.
        description: one sentence for the card.
        overwrite: replace a model of this name.

    Raises:
        IbrobustError: the name is taken or unsafe, the model cannot be built again, or the loaded model would compute
            something else.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> encoder = ibrobust.Encoder(width=1, latent_dim=2)
        >>> model = ibrobust.ImageClassifier(encoder, torch.nn.Linear(2, 10))
        >>> card = ibrobust.register_model("untrained", model, dataset=ibrobust.load_dataset("digits"))
        >>> card.width, card.latent_dim
        (1, 2)
    """
    check_name(name)
    check_dataset(dataset)
    refuse_duplicate(name, overwrite=overwrite)
    recipe = naming(recipe, dataset) if recipe is not None else None
    if factory is not None:
        return _register_outside(
            name, model, factory, arguments or {}, dataset, recipe=recipe, description=description, overwrite=overwrite
        )
    if not isinstance(model, ImageClassifier) or not isinstance(model.encoder, Encoder):
        raise IbrobustError(
            f"A {type(model).__name__} cannot be stored without its factory: say what builds it again, as "
            'factory="package.module:function", "timm:NAME" or "torchvision:NAME" with its arguments, give an '
            "ibrobust.ImageClassifier, or attack the module as it is."
        )
    # A head as it was trained is stored as it is in evaluation.
    with isolated_rng():  # new layers draw random numbers
        decoder = evaluation_head(model.decoder) if type(model.decoder) in HEADS else model.decoder
    decoders = {decoder_name(decoder): decoder}
    card, content = _pack(
        name,
        model.encoder,
        decoders,
        latent_dim=model.latent_dim,
        dataset=dataset,
        recipe=recipe,
        training=None,
        description=description,
    )
    cpu = torch.device("cpu")
    require_same_function(model, lambda: build_classifier(card, load(content), device=cpu), dataset, remedy=OWN_REMEDY)
    return _score_and_write(card, content, model.encoder, decoders, dataset, overwrite=overwrite)


def _register_outside(
    name: str,
    model: nn.Module,
    factory: str | Callable[..., Any],
    arguments: Mapping[str, Any],
    dataset: Dataset,
    *,
    recipe: Recipe | None,
    description: str,
    overwrite: bool,
) -> ModelCard:
    if not isinstance(model, nn.Module):
        raise IbrobustError(f"A {type(model).__name__} cannot be stored: give a torch.nn.Module.")
    architecture, tensors = describe(model, factory, arguments, dataset)
    weights, content = pack_weights(name, tensors)
    card = ModelCard(
        name=name,
        description=description,
        recipe=recipe,
        dataset=_dataset_record(dataset, recipe),
        architecture=architecture,
        decoders=(HEAD,),
        weights=weights,
        training=None,
        clean_accuracy={},
    )

    def rebuild() -> nn.Module:
        return build_outside(card, load(content), device=torch.device("cpu"), trust=True, found_now=True)

    require_same_function(model, rebuild, dataset, remedy=OUTSIDE_REMEDY)
    recognised = architecture.model_copy(update={"probe": probe_of(rebuild(), card)[0]})
    card = card.model_copy(update={"architecture": recognised})
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    accuracy = module_accuracy(rebuild().to(device), dataset)
    scored = card.model_copy(update={"clean_accuracy": {HEAD: accuracy}})
    allow(recognised, folder=None)
    write_model(scored, content, overwrite=overwrite)
    return scored


def store_model(
    name: str,
    encoder: Encoder,
    decoders: Mapping[str, nn.Module],
    *,
    latent_dim: int,
    dataset: Dataset,
    recipe: Recipe | None,
    training: TrainingRecord | None,
    overwrite: bool = False,
) -> ModelCard:
    """Score an encoder with its decoders, at least one, on the test images, store them, and return the card."""
    card, content = _pack(
        name, encoder, decoders, latent_dim=latent_dim, dataset=dataset, recipe=recipe, training=training
    )
    return _score_and_write(card, content, encoder, decoders, dataset, overwrite=overwrite)


def _pack(
    name: str,
    encoder: Encoder,
    decoders: Mapping[str, nn.Module],
    *,
    latent_dim: int,
    dataset: Dataset,
    recipe: Recipe | None,
    training: TrainingRecord | None,
    description: str = "",
) -> tuple[ModelCard, bytes]:
    """Return the card, without accuracies, and the content of the weights file."""
    tensors = {f"encoder.{key}": tensor for key, tensor in encoder.state_dict().items()}
    for kind, decoder in decoders.items():
        tensors |= {f"decoders.{kind}.{key}": tensor for key, tensor in decoder.state_dict().items()}
    weights, content = pack_weights(name, tensors)
    card = ModelCard(
        name=name,
        description=description,
        recipe=recipe,
        dataset=_dataset_record(dataset, recipe),
        width=encoder.width,
        latent_dim=latent_dim,
        encoder_outputs=encoder.latent_dim,
        fixed_power=isinstance(encoder.power, FixedPower),
        decoders=tuple(decoders),
        weights=weights,
        training=training,
        clean_accuracy={},
    )
    return card, content


def naming(recipe: Recipe, dataset: Dataset) -> Recipe:
    """Return the recipe with the data set that it is trained on, which may be in memory only."""
    return recipe.model_copy(update={"dataset": _source(dataset)})


def _source(dataset: Dataset) -> str:
    return dataset.source if dataset.source is not None else f"{MEMORY}{dataset.name}"


def _dataset_record(dataset: Dataset, recipe: Recipe | None) -> DatasetRecord:
    source = _source(dataset)
    return DatasetRecord(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        num_train=len(dataset.train),
        num_test=len(dataset.test),
        source=source if recipe is None and source != dataset.name else None,
    )


def _score_and_write(
    card: ModelCard,
    content: bytes,
    encoder: Encoder,
    decoders: Mapping[str, nn.Module],
    dataset: Dataset,
    *,
    overwrite: bool,
) -> ModelCard:
    assert card.latent_dim is not None
    accuracy = clean_accuracy(encoder, decoders, card.latent_dim, dataset)
    scored = card.model_copy(update={"clean_accuracy": accuracy})
    write_model(scored, content, overwrite=overwrite)
    return scored
