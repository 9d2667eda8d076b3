"""The names and cards of all models, without weights or torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from ibrobust.data.names import file_name, with_option
from ibrobust.errors import IbrobustError
from ibrobust.home import zoo_dir
from ibrobust.registry.card import ModelCard
from ibrobust.registry.store import card_paths, find_card, model_card

if TYPE_CHECKING:
    from ibrobust.data import Dataset


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all models, the user's and those that ship with ibrobust, sorted.

    Args:
        pattern: shell pattern that a name must match, for example ``"knn_ib*"``.

    Examples:
        >>> import ibrobust
        >>> ibrobust.list_models("cross_entropy-w16-s*")
        ['cross_entropy-w16-s0', 'cross_entropy-w16-s1', 'cross_entropy-w16-s2']
    """
    return sorted(name for name in card_paths() if fnmatch(name, pattern))


def readable_cards(names: Iterable[str]) -> Iterator[ModelCard]:
    """Yield the cards of models; one that cannot be read, as of a newer ibrobust, is skipped with a warning."""
    for name in names:
        try:
            yield model_card(name)
        except IbrobustError as error:
            warnings.warn(f"The model {name!r} was skipped: {error}", stacklevel=3)


def shipped_models() -> list[str]:
    """Return the names of the models that ship with ibrobust, sorted, without those that the user has replaced."""
    return sorted(name for name, path in card_paths().items() if path.parent == zoo_dir())


def weights_size(card: ModelCard) -> int | None:
    """Return the bytes of the weights file of a model with this card, or None if it is missing."""
    path = find_card(card.name).parent / Path(card.weights.file).name  # a card may be from elsewhere
    return path.stat().st_size if path.is_file() else None


def in_its_channels(card: ModelCard, data: Dataset) -> Dataset:
    """Return grey images that are stored in three equal channels in one, if the model takes one; others as they are."""
    if card.architecture is None or card.architecture.channels != 1 or not data.is_grey:
        return data
    return data.in_channels(1)


def require_fit(card: ModelCard, data: Dataset, *, size: int | None = None, is_surrogate: bool = False) -> None:
    """Raise IbrobustError if a model cannot be evaluated on a data set's images: other classes, or another size.

    Args:
        card: of the model.
        data: its test images are evaluated.
        size: height and width that the images are scaled to before the model; None if they are not.
        is_surrogate: whether the images are another model's, so that the remedy is another surrogate.
    """
    if card.dataset.class_names != data.class_names:
        remedy = "choose a surrogate model of the same classes" if is_surrogate else "give the model's own `dataset`"
        if not is_surrogate and data.class_names == tuple(map(str, range(len(card.dataset.class_names)))):
            remedy += ", or name the classes of these images, which have numbers only (class_names in a file)"
        require_classes(card, data.class_names, data.name, remedy=remedy)
    if card.architecture is not None:
        wanted = (card.architecture.channels, *card.architecture.image_size)
        channels, *given = data.test.images.shape[1:]
        if size is not None:
            _require_size(card.name, wanted[1:], size, tuple(given))
            given = [size, size]
        require_shape(card.name, wanted, (channels, *given), data.source or data.name, is_surrogate=is_surrogate)


def require_classes(card: ModelCard, class_names: tuple[str, ...], source: str, *, remedy: str) -> None:
    """Raise IbrobustError, with the remedy, if a model has other classes than images from a source."""
    if card.dataset.class_names != class_names:
        raise IbrobustError(
            f"The model {card.name!r} was trained on the classes of {card.dataset.name}, which differ from those of "
            f"{source}: {remedy}."
        )


def _require_size(name: str, wanted: tuple[int, ...], size: int, given: tuple[int, ...]) -> None:
    """Raise IbrobustError if scaled images have another height and width than a model takes."""
    if wanted == (size, size):
        return
    height, width = wanted
    remedies = ["leave out `resize`"] if given == wanted else []
    remedies += [f"give `resize` {height}"] if height == width else []
    raise IbrobustError(
        f"The model {name!r} takes {width}x{height} pixels, and `resize` {size} would give it {size}x{size}: "
        f"{', or '.join(remedies) or 'leave out `resize`'}."
    )


def require_shape(
    name: str, wanted: tuple[int, ...], given: tuple[int, ...], source: str, *, is_surrogate: bool = False
) -> None:
    """Raise IbrobustError, with the remedy, if a model takes images (C, H, W) of another shape.

    Args:
        name: of the model.
        wanted: the shape that it takes.
        given: the shape of the images.
        source: of the images, as `load_dataset` takes it.
        is_surrogate: as of `require_fit`.
    """
    if given == wanted:
        return
    remedy = "give its own `dataset`"
    if wanted[0] == given[0] and wanted[1] == wanted[2]:
        remedy += f", or scale them inside the model: `resize` {wanted[1]}"
    if wanted[1:] == given[1:] and {given[0], wanted[0]} == {1, 3}:
        remedy = f"if they are grey, give `dataset='{with_option(source, 'channels', wanted[0])}'`"
    if is_surrogate:
        remedy = "choose a surrogate model that takes such images"
    raise IbrobustError(
        f"The model {name!r} takes images of {_size(wanted)}, and those of {file_name(source)} are {_size(given)}: "
        f"{remedy}."
    )


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} pixels in {channels} channel{'' if channels == 1 else 's'}"
