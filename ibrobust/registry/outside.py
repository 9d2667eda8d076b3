"""Models that are not ibrobust's own: from a module in memory to a card's architecture, and back with its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust.data import Dataset
from ibrobust.errors import IbrobustError
from ibrobust.function_names import name_of_function, short_reason
from ibrobust.models import HEAD, LogitsOf, Normalized, Resized, TwoLogits, logits_of, normalized, resized, two_logits
from ibrobust.registry.card import ArchitectureRecord, ModelCard
from ibrobust.registry.factories import FORMS, build_module, folder_of, require_allowed
from ibrobust.registry.same_function import is_the_same, probe

_AROUND = ("module", "_orig_mod")  # where DataParallel, DistributedDataParallel and torch.compile put a model


def describe(
    model: nn.Module, factory: str | Callable[..., Any], arguments: Mapping[str, Any], dataset: Dataset
) -> tuple[ArchitectureRecord, dict[str, Tensor]]:
    """Return how a module is built again, and the weights that go with that.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K); what `ibrobust.normalized`, `logits_of`, `two_logits`
            and `resized` put around it becomes part of the record.
        factory: what gives the module inside, see `ArchitectureRecord`.
        arguments: of the factory, by keyword.
        dataset: gives channels and image size.

    Raises:
        IbrobustError: the factory has no name, its arguments are not plain data, or the module's state is not made of
            tensors.
    """
    reference = factory if isinstance(factory, str) else name_of_function(factory)
    inside, around = _unwrapped(model)
    channels, height, width = dataset.test.images.shape[1:]
    architecture = _architecture(reference, arguments, channels=channels, image_size=(height, width), **around)
    state = inside.state_dict()
    odd = next((key for key, value in state.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise IbrobustError(f"The {type(inside).__name__} keeps {odd!r} in its state, which is no tensor: remove it.")
    return architecture, state


def _architecture(reference: str, arguments: Mapping[str, Any], **fields: Any) -> ArchitectureRecord:
    library, _, function = reference.partition(":")
    if not library or not function or ":" in function or any(part.isspace() for part in reference):
        raise IbrobustError(f"The factory {reference!r} is not of the form {FORMS}.")
    try:
        plain = json.loads(json.dumps(dict(arguments), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise IbrobustError(
            f"The arguments of {reference} cannot be kept in a card ({short_reason(error)}): give numbers, text, "
            "true, false, lists and dictionaries."
        ) from error
    return ArchitectureRecord(factory=reference, arguments=plain, **fields)


def module_of(factory: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor] | None) -> nn.Module:
    """Return the module from a factory that the user names in this call, with its state if one is given.

    Raises:
        IbrobustError: the factory fails, or the state does not fit the module.
    """
    module = build_module(_architecture(factory, arguments, channels=3, image_size=(1, 1)), folder=None)
    return module if state is None else _filled(module, state, f"The weights do not fit what {factory} builds")


def build_outside(
    card: ModelCard,
    weights: Mapping[str, Tensor],
    *,
    decoder: str | None = None,
    num_samples: int | None = None,
    device: torch.device,
    trust: bool = False,
    found_now: bool = False,
) -> nn.Module:
    """Return the model of a card with an architecture: images (B, C, H, W) in [0, 1] -> logits (B, K).

    Args:
        card: of the model.
        weights: its tensors, already checked against the card's SHA-256.
        decoder: only ``head`` is there.
        num_samples: must be None, since there are no latents.
        device: where to put the model.
        trust: allow the card's factory, see `require_allowed`.
        found_now: take the factory that Python finds from here, as when the model is registered, wherever it was found
            before.

    Raises:
        IbrobustError: the factory is not allowed or fails, there is no such decoder, or the weights do not fit.
    """
    assert card.architecture is not None
    if decoder not in (None, HEAD) or num_samples is not None:
        raise IbrobustError(
            f"The model {card.name!r} has neither decoders nor samples to choose, since it is built by "
            f"{card.architecture.factory}: leave decoder and num_samples out."
        )
    require_allowed(card.name, card.architecture, trust=trust)
    module = build_module(card.architecture, folder=None if found_now else folder_of(card.architecture, trust=trust))
    fault = f"The weights of {card.name!r} do not fit what {card.architecture.factory} builds"
    model = _wrapped(_filled(module, weights, fault), card.architecture).eval()
    if card.architecture.probe is not None and not _is_as_registered(model, card):
        raise IbrobustError(
            f"{card.architecture.factory} builds another function than when {card.name!r} was registered: its code was "
            "changed, or another module of that name is imported. Restore the code, or register the model again."
        )
    return model.to(device)


def _is_as_registered(model: nn.Module, card: ModelCard) -> bool:
    assert card.architecture is not None
    assert card.architecture.probe is not None
    try:
        numbers, tolerance = probe_of(model, card)
        return is_the_same(numbers, card.architecture.probe, tolerance)
    except Exception:  # whatever the changed code does
        return False


def probe_of(model: nn.Module, card: ModelCard) -> tuple[tuple[float, ...], float]:
    """Return the `probe` of the model of a card with an architecture."""
    assert card.architecture is not None
    channels, image_size = card.architecture.channels, card.architecture.image_size
    return probe(model, channels=channels, image_size=image_size, num_classes=len(card.dataset.class_names))


def _filled(module: nn.Module, weights: Mapping[str, Tensor], fault: str) -> nn.Module:
    try:
        module.load_state_dict(dict(weights))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).splitlines()[-1].split())
        inside = next((name for name in _AROUND if all(key.startswith(f"{name}.") for key in weights)), None)
        remedy = "both must be of one model"
        if inside is not None and weights:
            remedy = f"their names begin with {inside!r}, so take the module inside, model.{inside}, and its weights"
        raise IbrobustError(f"{fault} ({reason}): {remedy}.") from error
    return module


def _unwrapped(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Return the module inside ibrobust's wrappers, each once at most, and what they do as fields of the record."""
    around: dict[str, Any] = {}
    while True:
        if isinstance(model, Normalized) and "mean" not in around:
            around |= {"mean": tuple(model.mean.flatten().tolist()), "std": tuple(model.std.flatten().tolist())}
        elif isinstance(model, TwoLogits) and not around.get("one_logit"):
            around["one_logit"] = True
        elif isinstance(model, LogitsOf) and not around.get("logits_inside"):
            around["logits_inside"] = True
        elif isinstance(model, Resized) and "resized_to" not in around:
            around["resized_to"] = model.size
        else:
            return model, around
        model = model.model


def _wrapped(module: nn.Module, architecture: ArchitectureRecord) -> nn.Module:
    if architecture.mean is not None and architecture.std is not None:
        module = normalized(module, architecture.mean, architecture.std)
    if architecture.logits_inside:
        module = logits_of(module)
    module = two_logits(module) if architecture.one_logit else module
    return module if architecture.resized_to is None else resized(module, architecture.resized_to)
