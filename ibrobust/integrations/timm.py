"""Registered models in `timm.create_model`, which RobustBench asks first."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from types import ModuleType
from typing import Any, cast

from torch import nn

from ibrobust.data.names import NAMED_DATASETS, read_name
from ibrobust.errors import IbrobustError
from ibrobust.integrations.robustbench.environment import adapt_timm, imported_quietly, require_timm
from ibrobust.registry import ModelCard, list_models, load_model, model_card

require_timm()
with imported_quietly():
    import timm

with suppress(IbrobustError):  # an error is reported at download; local models need none
    adapt_timm()

DATASETS = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}  # RobustBench's, by number of classes
SIDES = {**dict.fromkeys(NAMED_DATASETS, 32), "mnist": 28}  # of the images of a data set
THREAT_MODELS = ("Linf", "L2", "corruptions")

# timm appends every factory's name to its module's __all__, so ours get their own module.
_MODULE = "ibrobust.integrations.timm.models"


def timm_name(name: str, dataset: str, threat_model: str) -> str:
    """Return the model's name in RobustBench's request to timm: lower case, with ``_`` for ``-``."""
    return f"{_plain(name)}_{dataset}_{threat_model}".lower()


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def dataset_of(num_classes: int) -> str:
    """Return the RobustBench data set of models with this number of classes.

    A model that fits none of them is offered for CIFAR-10; loading it then reports the mismatch.
    """
    return DATASETS.get(num_classes, "cifar10")


def register(*, reserved: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """Offer all registered models to `timm.create_model(..., pretrained=True)`; return model -> timm names.

    A model that cannot be offered is left out with a warning: its card is damaged, it would hide one of timm's own
    models, or another one has the same name in timm, as ``my-net`` and ``my_net`` have; then both are left out. Nothing
    is loaded yet. Call it again after training.

    Args:
        reserved: timm names that must not be taken.
    """
    offered = {}
    stored = list_models()
    for name in stored:
        try:
            if twins := [other for other in stored if other != name and _plain(other) == _plain(name)]:
                raise IbrobustError(f"timm cannot tell it from {twins[0]!r}: rename one of them.")
            dataset = dataset_of(len(model_card(name).dataset.class_names))
            names = tuple(timm_name(name, dataset, threat_model) for threat_model in THREAT_MODELS)
            if not set(names).isdisjoint(reserved):
                raise IbrobustError(f"{name!r} is the name of another model: rename one of them.")
            _offer(name, names)
        except IbrobustError as error:
            warnings.warn(f"The model {name!r} is not offered to timm: {error}", stacklevel=2)
            continue
        offered[name] = names
    return offered


def _offer(name: str, full_names: tuple[str, ...]) -> None:
    # For timm, the text after the first dot is a tag: it looks up the part before the dot and passes the tag on.
    architectures = sorted({full_name.split(".")[0] for full_name in full_names})
    for architecture in architectures:
        if timm.is_model(architecture) and timm.models.model_entrypoint(architecture).__module__ != _MODULE:
            raise IbrobustError(f"timm has its own {architecture!r}, so {name!r} needs another name.")
    for architecture in architectures:
        if not timm.is_model(architecture):
            timm.models.register_model(_factory(architecture))


def _factory(architecture: str) -> Callable[..., nn.Module]:
    def create(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        num_classes: int | None = None,
        **options: Any,
    ) -> nn.Module:
        full_name = f"{architecture}.{pretrained_cfg}" if isinstance(pretrained_cfg, str) else architecture
        if not pretrained:
            raise IbrobustError(f"{full_name!r} is a trained model: create it with pretrained=True.")
        # timm always passes some of its options, as cache_dir=None.
        options["pretrained_cfg_overlay"] = pretrained_cfg_overlay or None
        given = [option for option, value in options.items() if value is not None]
        if given:
            raise IbrobustError(f"{full_name!r} is a trained model: leave out the option {given[0]!r}.")
        return _load(full_name, num_classes)

    create.__name__ = create.__qualname__ = architecture
    create.__module__ = _MODULE
    sys.modules.setdefault(_MODULE, ModuleType(_MODULE, "The factories of registered models."))
    return create


def _load(full_name: str, num_classes: int | None) -> nn.Module:
    # Looked up now, not when it was offered: the registry may have changed.
    endings = [(dataset, threat_model) for dataset in DATASETS.values() for threat_model in THREAT_MODELS]
    names = [name for name in list_models() if full_name in (timm_name(name, *ending) for ending in endings)]
    if not names:
        raise IbrobustError(f"No registered model has the timm name {full_name!r}: ibrobust list shows all.")
    if len(names) > 1:
        raise IbrobustError(f"{full_name!r} stands for both {' and '.join(names)}: rename one of them.")
    classes = len(model_card(names[0]).dataset.class_names)
    if num_classes is not None and num_classes != classes:
        raise IbrobustError(
            f"The model {names[0]!r} has {classes} classes, but {num_classes} were requested: choose a data set "
            f"with {classes} classes."
        )
    model = load_model(names[0])
    channels, size = _image_shape(model, model_card(names[0]))
    # What timm's own code reads from a model; the normalisation is inside ours, and the images are as they were stored.
    config = {
        "architecture": full_name,
        "num_classes": classes,
        **({"input_size": (channels, *size)} if size is not None else {}),
        "mean": (0.0,) * channels,
        "std": (1.0,) * channels,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    vars(model).update(num_classes=classes, pretrained_cfg=config, default_cfg=config)
    return model


def _image_shape(model: nn.Module, card: ModelCard) -> tuple[int, tuple[int, int] | None]:
    """Return the channels and (H, W) of the images that a model was trained on; None if its card does not say."""
    if card.architecture is not None:
        return card.architecture.channels, card.architecture.image_size
    # The whole name: a folder may be called as a known data set is.
    name, options = read_name(card.images)
    side = SIDES.get(name) if "size" not in options else None
    channels: int = cast(Any, model).encoder.mean.shape[1]
    return channels, None if side is None else (side, side)
