"""Which functions build the models that are not ibrobust's own, and which of them may be called.

A card is data, and may come from anywhere: a file, the Hub, another package. What it names is imported only where the
user has allowed it: by registering a model with it on this machine, by `trust`, or by installing a package that names
it in the entry-point group ``ibrobust.factories``. What was registered here is kept in the user's home, beside the
cards and not in them, so that no card can claim it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ibrobust.atomic import write_text
from ibrobust.errors import IbrobustError
from ibrobust.full_precision import default_dtype
from ibrobust.function_names import folder_of_module, function_by_name, importable, short_reason
from ibrobust.home import factories_dir
from ibrobust.registry.card import ArchitectureRecord
from ibrobust.suggestions import a_type, no_such_model

ENTRY_POINT_GROUP = "ibrobust.factories"
FORMS = "package.module:function, timm:NAME or torchvision:NAME"

# Where weights come from: from the card alone.
_RESERVED = {
    "timm": ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    "torchvision": ("weights", "weights_backbone", "progress"),
}
# Numbers that shape a network, and do nothing else. Other arguments of a card from elsewhere need the user's word.
_HARMLESS = ("num_classes", "in_chans", "img_size", "global_pool", "drop_rate", "drop_path_rate")


def require_allowed(name: str, architecture: ArchitectureRecord, *, trust: bool) -> None:
    """Raise IbrobustError, before anything is imported, if a card's factory may not be called.

    Args:
        name: of the model.
        architecture: of its card.
        trust: whether the caller allows it.
    """
    library, _, _ = architecture.factory.partition(":")
    for argument in _RESERVED.get(library, ()):
        if argument in architecture.arguments:
            raise IbrobustError(
                f"The factory {architecture.factory} is given {argument}: leave it out, since the weights are those "
                "that are stored with the card."
            )
    if trust or (library in _RESERVED and set(architecture.arguments) <= set(_HARMLESS)):
        return
    if _records(architecture) or architecture.factory in _offered_by_packages():
        return
    raise IbrobustError(
        f"The model {name!r} is built by {architecture.factory}, which its card names and you have not allowed on this "
        f"machine: read that code, and then load the model with trust=True, or add it with ibrobust add --trust."
    )


def allow(architecture: ArchitectureRecord, *, folder: str | None) -> None:
    """Keep, in the user's home, that this factory may be called with these arguments, and where this model finds it.

    Args:
        architecture: of the model.
        folder: with which it was built, see `build_module`.
    """
    module = sys.modules.get(architecture.factory.partition(":")[0])
    if folder is None and module is not None and architecture.factory.partition(":")[0] not in _RESERVED:
        folder = folder_of_module(module)
    record = {
        "factory": architecture.factory,
        "arguments": architecture.arguments,
        "folder": folder or None,
    }
    write_text(_record_path(architecture), json.dumps(record, indent=2) + "\n")


@default_dtype(torch.float32)
def build_module(architecture: ArchitectureRecord, *, folder: str | None) -> nn.Module:
    """Return the module from an allowed factory, with weights that the caller replaces.

    Args:
        architecture: names the factory, with its arguments.
        folder: where its module is, see `importable`.

    Raises:
        IbrobustError: there is no such factory, it fails, or it gives no module.
    """
    library, _, name = architecture.factory.partition(":")
    makers: dict[str, Callable[..., Any]] = {"timm": _timm, "torchvision": _torchvision}
    # Building draws random weights, and libraries warn of what is older than themselves.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if library in makers:
                module = makers[library](name, **architecture.arguments)
            else:
                what = f"The factory {architecture.factory!r}"
                with importable(folder):
                    function = function_by_name(architecture.factory, what, folder=folder, forms=FORMS)
                    module = function(**architecture.arguments)
        except IbrobustError:
            raise
        except Exception as error:  # whatever a factory does
            remedy = "give the arguments with which the model was built"
            if isinstance(error, ModuleNotFoundError):
                remedy = "install that module, or put it beside the function's"
            raise IbrobustError(
                f"{architecture.factory} fails with the arguments {architecture.arguments} ({short_reason(error)}): "
                f"{remedy}."
            ) from error
    if not isinstance(module, nn.Module):
        raise IbrobustError(f"{architecture.factory} returns {a_type(module)}, where a torch.nn.Module is needed.")
    return module


def folder_of(architecture: ArchitectureRecord, *, trust: bool) -> str | None:
    """Return the folder of an allowed factory's module, so that a model loads with the same code from everywhere.

    It is empty for an installed package, which a file of that name in the current folder must not replace, and None for
    a factory that was allowed for this once.

    Raises:
        IbrobustError: the folder does not exist any more, and the caller does not allow (`trust`) to search elsewhere.
    """
    records = _records(architecture)
    if not records:
        return "" if architecture.factory in _offered_by_packages() else None
    own = _record_path(architecture)
    # Of a model that was brought in another way: a card that was copied by hand, or one with rounded weights.
    path = own if own in records else max(records, key=lambda path: path.stat().st_mtime_ns)
    try:
        folder: str | None = json.loads(path.read_text(encoding="utf-8"))["folder"]
    except (ValueError, KeyError, TypeError) as error:
        raise IbrobustError(f"The file {str(path)!r} is damaged: remove it, and register the model again.") from error
    if not folder or Path(folder).is_dir():
        return folder or ""
    if trust:
        return None
    raise IbrobustError(
        f"The folder {folder!r}, where {architecture.factory} was when the model was registered, does not exist: "
        "restore it, or register the model again."
    )


def _records(architecture: ArchitectureRecord) -> list[Path]:
    """Return what is kept of the models that this factory builds with these arguments."""
    return list(factories_dir().glob(f"{_digest([architecture.factory, architecture.arguments])}*.json"))


def _record_path(architecture: ArchitectureRecord) -> Path:
    # Factories of two folders may have one name: the architecture, with its probe, tells their models apart.
    call, model = [architecture.factory, architecture.arguments], architecture.model_dump(mode="json")
    return factories_dir() / f"{_digest(call)}-{_digest(model)}.json"


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _offered_by_packages() -> set[str]:
    return {point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def _timm(name: str, **arguments: Any) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise IbrobustError("timm is not installed: pip install timm.") from error

    if not timm.is_model(name):
        raise no_such_model("timm", name, timm.list_models())
    module: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return module


def _torchvision(name: str, **arguments: Any) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise no_such_model("torchvision", name, known)
    if "init_weights" in inspect.signature(models.get_model_builder(name)).parameters:
        arguments = {"init_weights": False, **arguments}
    module: nn.Module = models.get_model(name, weights=None, **arguments)
    return module
