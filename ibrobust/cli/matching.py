"""Which models fit which images, and a note for the caption if they were trained on other images."""

from __future__ import annotations

from collections.abc import Sequence

from ibrobust.data import Dataset
from ibrobust.registry import list_models, model_card
from ibrobust.registry.card import ModelCard

# The same photographs, as they were published and re-encoded: a model of one can be evaluated on the other.
CIFAR10 = {"cifar10": "CIFAR-10", "cifar10-jpeg": "CIFAR-10 re-encoded as JPEG"}
CIFAR10_SIZE = (32, 32)


def models_for(data: Dataset) -> list[str]:
    """Return the names of all models for these images. Both encodings of CIFAR-10 count as the same images."""
    return [name for name in list_models() if _fits(model_card(name), data)]


def _fits(card: ModelCard, data: Dataset) -> bool:
    if card.dataset.fingerprint == data.fingerprint:
        return True
    is_cifar10 = data.name in CIFAR10 and tuple(data.test.images.shape[-2:]) == CIFAR10_SIZE
    return is_cifar10 and card.dataset.name in CIFAR10 and card.dataset.class_names == data.class_names


def trained_on(card: ModelCard, data: Dataset) -> str | None:
    """Return a model's training data in words for a caption, or None if it was trained on these images."""
    if card.dataset.fingerprint == data.fingerprint:
        return None
    if card.dataset.name == data.name:
        return f"other images of {data.name}"
    return CIFAR10.get(card.dataset.name, card.dataset.name)


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
