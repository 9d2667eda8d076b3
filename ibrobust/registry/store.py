"""Where cards and weights lie, and how they get there whole."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ibrobust.atomic import atomic_path, write_text
from ibrobust.errors import IbrobustError
from ibrobust.home import models_dir, zoo_dir
from ibrobust.registry.card import ModelCard, check_name, read_card
from ibrobust.registry.plugins import plugin_card_paths

if TYPE_CHECKING:
    from torch import Tensor


def card_paths() -> dict[str, Path]:
    """Return the card file of every model by name: the user's own first, then those of ibrobust and of plugins."""
    found: dict[str, Path] = {}
    for folder in (models_dir(), zoo_dir()):
        if folder.is_dir():
            for path in sorted(folder.glob("*.yaml")):
                found.setdefault(path.stem, path)
    for name, path in plugin_card_paths().items():
        found.setdefault(name, path)
    return found


def write_weights(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Store weights in the user's model folder; return the file's name and its SHA-256.

    The file's name carries the start of the hash: an overwritten model's new weights lie beside its old ones until
    the new card, written last, points at them.
    """
    from safetensors.torch import save

    content = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    target = models_dir() / f"{name}-{digest[:12]}.safetensors"
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return target.name, digest


def read_weights(card: ModelCard, card_path: Path) -> dict[str, Tensor]:
    """Return the weights that a card names, checked against its SHA-256.

    Raises:
        IbrobustError: the file is missing, cut short or changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    # The card may come from anywhere: its weights lie beside it, and nowhere else.
    path = card_path.parent / Path(card.weights.file).name
    remedy = f"train it again (ibrobust train --name {card.name} --overwrite) or restore the file"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IbrobustError(f"The weights of {card.name!r} cannot be read ({error}): {remedy}.") from error
    if hashlib.sha256(content).hexdigest() != card.weights.sha256:
        raise IbrobustError(f"The weights of {card.name!r} in {str(path)!r} do not have the card's SHA-256: {remedy}.")
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise IbrobustError(f"The weights of {card.name!r} are not safetensors ({error}): {remedy}.") from error
    return tensors


def write_card(card: ModelCard) -> Path:
    """Store a card in the user's model folder, then drop weights that an earlier card of this name had."""
    check_name(card.name)
    folder = models_dir()
    path = folder / f"{card.name}.yaml"
    before = _weights_file(path)
    write_text(path, card.to_text())
    if before and before != card.weights.file:
        (folder / before).unlink(missing_ok=True)
    return path


def _weights_file(card_path: Path) -> str | None:
    if not card_path.is_file():
        return None
    try:
        return Path(read_card(card_path).weights.file).name
    except IbrobustError:  # a damaged card that is being replaced
        return None


def find_card(name: str) -> Path:
    """Return where a model's card is; raise IbrobustError with the nearest names where there is none."""
    paths = card_paths()
    if name in paths:
        return paths[name]
    near = difflib.get_close_matches(name, paths, n=3, cutoff=0.4)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif paths:
        hint = "ibrobust list shows all."
    else:
        hint = "there are none yet; ibrobust train makes one."
    raise IbrobustError(f"There is no model {name!r}: {hint}")


def refuse_duplicate(name: str, *, overwrite: bool) -> None:
    """Raise IbrobustError where the name is taken and may not be."""
    if not overwrite and name in card_paths():
        raise IbrobustError(
            f"There is already a model {name!r}: choose another name (--name) or replace it (--overwrite)."
        )
