"""Which models fit which images, and a note for the caption if they were trained on other images."""

from __future__ import annotations

from collections.abc import Sequence

from ibrobust.data import Dataset
from ibrobust.data.names import NO_TRAINING, attacked_split, lasting_name, read_name, training_splits
from ibrobust.registry import list_models
from ibrobust.registry.card import ModelCard
from ibrobust.registry.catalog import readable_cards

# The same photographs, as they were published and re-encoded: a model of one can be evaluated on the other.
CIFAR10 = {"cifar10": "CIFAR-10", "cifar10-jpeg": "CIFAR-10 re-encoded as JPEG"}
CIFAR10_SIZE = (32, 32)


def models_for(data: Dataset) -> list[str]:
    """Return the names of all models for these images. Both encodings of CIFAR-10 count as the same images.

    A card that cannot be read is skipped with a warning.
    """
    return [card.name for card in readable_cards(list_models()) if _fits(card, data)]


def _fits(card: ModelCard, data: Dataset) -> bool:
    if card.dataset.fingerprint == data.fingerprint:
        return True
    is_cifar10 = data.name in CIFAR10 and tuple(data.test.images.shape[-2:]) == CIFAR10_SIZE
    return is_cifar10 and card.dataset.name in CIFAR10 and card.dataset.class_names == data.class_names


def trained_on(card: ModelCard, data: Dataset) -> str | None:
    """Return a model's training data in words for a caption, or None if it was trained on this data set."""
    return training_images(card, name=data.name, source=data.source, fingerprint=data.fingerprint)


def training_images(card: ModelCard, *, name: str, source: str | None, fingerprint: str | None) -> str | None:
    """Return a model's training data in words, as `trained_on`, beside attacked images.

    Args:
        card: of the model.
        name: of the attacked images' data set.
        source: of the attacked images, as `load_dataset` takes it, if it is known.
        fingerprint: of their data set; None if it is not known, so that nothing is said of one of the same name.
    """
    if fingerprint == card.dataset.fingerprint:
        return None  # also under another name
    if card.dataset.name != name:
        return CIFAR10.get(card.dataset.name, card.dataset.name)
    if fingerprint is None:
        return None
    split = attacked_split(source)
    # Options such as size, or config of the Hub, make other images of the same split.
    is_same = source is not None and _without_halves(source) == _without_halves(lasting_name(card.images))
    if source is None or split is None:
        # A fingerprint is of both halves, so that of the test images alone tells nothing.
        is_alone = is_same and source is not None and read_name(source)[1].get("train") == NO_TRAINING
        return f"{'' if is_alone else 'other '}images of {name}"
    own = training_splits(card.images)
    if is_same:
        if split in own:
            return "these images"
        if own and not any(split in half or half in split for half in own):  # trainval holds train
            return f"other images of {name}"
    return f"images of {name}"  # whether they are these ones cannot be told


def _without_halves(source: str) -> tuple[str, dict[str, str]]:
    name, options = read_name(source)
    return name, {key: value for key, value in options.items() if key not in ("train", "test", "channels")}


def training_note(models: Sequence[tuple[str, str | None]]) -> str:
    """Return a caption's note on the models, given as (name, `trained_on`), that were trained on other images.

    Empty if there are none.
    """
    others: dict[str, list[str]] = {}
    for name, images in dict(models).items():
        if images is not None:
            others.setdefault(images, []).append(name)
    everywhere = len(others) == 1 and len(next(iter(others.values()))) == len(dict(models))
    return "; ".join(
        f"{'' if everywhere else ', '.join(names) + ' '}trained on {images}" for images, names in others.items()
    )
