"""Data sets of the Hugging Face Hub, through the package datasets. No code of a data set is run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ibrobust.data.arrays import distinct, labels_of, numbered_classes
from ibrobust.data.dataset import Dataset, Split, no_images
from ibrobust.data.names import HUGGING_FACE, NO_TRAINING, needs_datasets, refuse_shared
from ibrobust.data.pictures import Counter, Progress, one_tensor, pixels_of
from ibrobust.errors import IbrobustError
from ibrobust.suggestions import a_type

_TRAIN, _TEST = ("train",), ("test", "validation", "valid", "val")


def load_hugging_face(
    name: str,
    *,
    train: str | None = None,
    test: str | None = None,
    size: int | None = None,
    options: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Return a data set of the Hub, or of a folder that the package datasets reads; grey images have 1 channel.

    Args:
        name: OWNER/NAME on the Hub.
        train: the split of the training images, by default "train" if it is not that of the test images; "none"
            leaves them out.
        test: the split of the test images, by default "test", or "validation" if there is no such split.
        size: of the images after scaling and cutting them, see `one_tensor`; by default all must have one size.
        options: config of the data set, and the columns image and label if they cannot be told from their types.
        progress: called with (images done, total images) while pictures are decoded.

    Raises:
        IbrobustError: the package is missing, the data set is missing or cannot be downloaded, its images and labels
            cannot be told, or one split is named for both halves.
    """
    options = dict(options or {})
    splits = _splits(name, options.get("config"))
    halves = {"train": _chosen(name, splits, train, _TRAIN), "test": _chosen(name, splits, test, _TEST)}
    if halves["test"] is None:
        raise IbrobustError(
            f"The data set hf:{name} has the splits {', '.join(splits)}: name the one to attack, as in "
            f"hf:{name}:test={next(iter(splits), 'NAME')}."
        )
    if halves["train"] == halves["test"]:
        refuse_shared(f"hf:{name}", train)
        halves["train"] = None
    rows = {half: splits[split] for half, split in halves.items() if split is not None}
    image, label = _columns(name, rows["test"].features, options)
    told = Counter(progress, sum(len(half) for half in rows.values()))
    parts = {}
    for half, table in rows.items():
        images = one_tensor(_pictures(name, table, image), size=size, told=told)
        parts[half] = Split(images, labels_of(np.asarray(table[label]), len(images), f"hf:{name}"))
    names = getattr(rows["test"].features[label], "names", None)
    class_names = distinct(names) if names else numbered_classes(part.labels for part in parts.values())
    shown = name.rstrip("/").rpartition("/")[2]
    dataset = Dataset(shown, class_names, parts.get("train", no_images(parts["test"])), parts["test"])
    return dataset.in_channels(1) if dataset.is_grey else dataset


def _splits(name: str, config: str | None) -> Mapping[str, Any]:
    try:
        import datasets
    except Exception as error:  # it is missing, or does not fit the packages that it needs
        why = "" if getattr(error, "name", None) == "datasets" else f", which cannot be imported ({error})"
        raise needs_datasets(HUGGING_FACE + name, why) from error
    # Earlier releases run a script of the data set, unless this forbids it; later ones have no such scripts.
    asks = "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters
    without_code = {"trust_remote_code": False} if asks else {}
    try:
        found = datasets.load_dataset(name, config, **without_code)
    # The package, the Hub and the network raise many types of errors.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise IbrobustError(
            f"The data set {HUGGING_FACE}{name} is not in the cache of datasets and could not be loaded ({lines[0]}): "
            "check the name, its config (:config=NAME) and the network."
        ) from error
    splits: Mapping[str, Any] = found
    return splits


def _chosen(name: str, splits: Mapping[str, Any], wanted: str | None, usual: tuple[str, ...]) -> str | None:
    if wanted == NO_TRAINING:
        return None
    if wanted is None:
        return next((split for split in usual if split in splits), None)
    if wanted not in splits:
        raise IbrobustError(f"The data set hf:{name} has no split {wanted!r}: choose from {', '.join(splits)}.")
    return wanted


def _columns(name: str, features: Mapping[str, Any], options: Mapping[str, str]) -> tuple[str, str]:
    """Return the names of the column of images and of the column of labels."""
    found = []
    for what, kind in (("image", "Image"), ("label", "ClassLabel")):
        wanted = options.get(what)
        possible = [column for column, feature in features.items() if type(feature).__name__ == kind]
        if wanted is None and not possible and what in features:
            possible = [what]  # numbers without names
        if wanted is not None and wanted not in features:
            raise IbrobustError(f"The data set hf:{name} has no column {wanted!r}: choose from {', '.join(features)}.")
        if wanted is None and len(possible) != 1:
            raise IbrobustError(
                f"The data set hf:{name} has {len(possible)} columns of {what}s: name one of "
                f"{', '.join(possible or features)}, as in hf:{name}:{what}={(possible or list(features))[0]}."
            )
        found.append(wanted if wanted is not None else possible[0])
    return found[0], found[1]


def _pictures(name: str, table: Any, image: str) -> Iterator[tuple[str, Any]]:
    for index in range(len(table)):
        what = f"Image {index} of hf:{name}"
        picture = table[index][image]
        if not hasattr(picture, "convert"):
            raise IbrobustError(f"{what} is {a_type(picture)}, no picture: name another column (:image=NAME).")
        yield what, pixels_of(picture, what)
