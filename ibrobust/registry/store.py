"""The files of cards and weights, and how they are written whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ibrobust.atomic import atomic_path
from ibrobust.errors import IbrobustError
from ibrobust.home import models_dir, require_writable_folder, zoo_dir
from ibrobust.locking import locked
from ibrobust.registry.card import ModelCard, WeightsRecord, check_name, read_card
from ibrobust.registry.plugins import plugin_card_paths
from ibrobust.suggestions import suggestion

if TYPE_CHECKING:
    from torch import Tensor

SECONDS_FOR_A_NAME = 10.0


def card_paths() -> dict[str, Path]:
    """Return the card files of all models by name: the user's own first, then those of ibrobust and of plugins."""
    found: dict[str, Path] = {}
    for folder in (models_dir(), zoo_dir()):
        if folder.is_dir():
            for path in sorted(folder.glob("*.yaml")):
                found.setdefault(path.stem, path)
    for name, path in plugin_card_paths().items():
        found.setdefault(name, path)
    return found


def pack_weights(name: str, tensors: Mapping[str, Tensor]) -> tuple[WeightsRecord, bytes]:
    """Return the record of a model's weights file for its card, and the content of the file.

    The file's name carries the start of the hash: an overwritten model's new weights lie beside its old ones until
    the new card, written last, points at them.
    """
    from safetensors.torch import save

    # Copies, since a file of weights has no tensors that share memory.
    content = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    return WeightsRecord(file=f"{name}-{digest[:12]}.safetensors", sha256=digest), content


def model_card(name: str) -> ModelCard:
    """Return the card of a model; raise IbrobustError, with the nearest names, if it does not exist.

    Examples:
        >>> import ibrobust
        >>> ibrobust.model_card("cross_entropy-w16-s0").width
        16
    """
    path = find_card(name)
    return _named(read_card(path), name)


def read_model(name: str) -> tuple[ModelCard, dict[str, Tensor]]:
    """Return a model's card and its matching weights, even while the model is being overwritten.

    Raises:
        IbrobustError: the model does not exist, or what `read_weights` raises.
    """
    path = find_card(name)
    card = read_card(path)
    while True:
        try:
            return _named(card, name), read_weights(card, path)
        except IbrobustError:
            before, card = card, read_card(path)
            if card.weights == before.weights:  # they have not been replaced since the card was read
                raise


def _named(card: ModelCard, name: str) -> ModelCard:
    # A card that was copied by hand has the name of its file.
    return card if card.name == name else card.model_copy(update={"name": name})


def read_weights(card: ModelCard, card_path: Path) -> dict[str, Tensor]:
    """Return the weights of a card, checked against its SHA-256.

    Raises:
        IbrobustError: the file is missing, cut short or changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    # The card may come from anywhere: its weights lie beside it, and nowhere else.
    path = card_path.parent / Path(card.weights.file).name
    again = f"train again with the settings that ibrobust show {card.name} --yaml prints"
    remedy = f"restore it from a copy, or {again if card.recipe else 'add the model again'}"
    file = f"The weights file {str(path)!r} of {card.name!r}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IbrobustError(f"{file} cannot be read ({error.strerror}): {remedy}.") from error
    if hashlib.sha256(content).hexdigest() != card.weights.sha256:
        raise IbrobustError(f"{file} is damaged (its SHA-256 checksum is not the card's): {remedy}.")
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise IbrobustError(f"{file} is not a safetensors file ({error}): {remedy}.") from error
    return tensors


def write_model(card: ModelCard, content: bytes, *, overwrite: bool) -> None:
    """Store a card and its weights, see `pack_weights`, in the user's model folder.

    Raises:
        IbrobustError: the name is unsafe, taken, or being written by another process.
    """
    check_name(card.name)
    with held(card.name):
        refuse_duplicate(card.name, overwrite=overwrite)
        with atomic_path(models_dir() / card.weights.file, through_links=False) as temporary:
            temporary.write_bytes(content)
        write_card(card)
        _drop_leftovers(card)


def write_card(card: ModelCard) -> None:
    """Store a card in the user's model folder; the caller holds its name. A linked card may be that of others."""
    with atomic_path(models_dir() / f"{card.name}.yaml", through_links=False) as temporary:
        temporary.write_text(card.to_text(), encoding="utf-8")


def held(name: str) -> AbstractContextManager[None]:
    """Hold a name in the user's model folder, so that no other process writes a model of that name."""
    refusal = f"The model {name!r} is being written by another process: try again."
    # Some file systems do not distinguish upper and lower case.
    return locked(models_dir() / f"{name.casefold()}.lock", refusal, seconds=SECONDS_FOR_A_NAME)


def _drop_leftovers(card: ModelCard) -> None:
    """Remove the weights of earlier cards of this name, and temporary files of killed processes."""
    folder = models_dir()
    made_for_it = re.compile(
        rf"{re.escape(card.name)}-[0-9a-f]{{12}}\.safetensors"
        rf"|\.{re.escape(card.name)}(-[0-9a-f]{{12}}\.safetensors|\.yaml)\.[^.]*\.tmp"
    )
    made = [path for path in folder.iterdir() if made_for_it.fullmatch(path.name)]
    # Cards that were copied by hand name the same weights.
    cards = b"".join(path.read_bytes() for path in folder.glob("*.yaml") if path.is_file())
    for path in made:
        if path.name.encode() not in cards:
            with suppress(OSError):  # on Windows a file that somebody reads
                path.unlink()


def find_card(name: str) -> Path:
    """Return the path of a model's card; raise IbrobustError with the nearest names if it does not exist."""
    # Twice, since a folder listed while a card is replaced may lack that card.
    for _ in range(2):
        paths = card_paths()
        if name in paths:
            return paths[name]
    if ":" in name:
        raise IbrobustError(
            f"{name!r} is no stored model, and one is needed here: give a name that ibrobust list shows. In Python, "
            "ibrobust.integrations.external_models.load_reference gives a model of another package."
        )
    rule = "ibrobust list shows all." if paths else "no model is stored yet; train one with ibrobust train."
    hint = suggestion(name, paths, rule)
    raise IbrobustError(f"Unknown model {name!r}: {hint}")


def refuse_duplicate(name: str, *, overwrite: bool) -> None:
    """Raise IbrobustError if a model of this name cannot be stored.

    The name is taken and may not be replaced, or differs from another one only in case, or the folder of the user's
    models cannot be written.
    """
    twin = next((other for other in card_paths() if other != name and other.casefold() == name.casefold()), None)
    if twin is not None:
        raise IbrobustError(
            f"The model {twin!r} exists, and some file systems cannot tell it from {name!r}: choose another `name`."
        )
    if not overwrite and name in card_paths():
        raise IbrobustError(
            f"The model {name!r} already exists: choose another `name`, or replace it with `overwrite=True`."
        )
    require_writable_folder(models_dir())
