"""An .npz or .safetensors file of images and labels. Nothing in it is unpickled."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ibrobust.data.arrays import images_of, labels_of, numbered_classes
from ibrobust.data.dataset import Dataset, Split, no_images
from ibrobust.data.names import NO_TRAINING, refuse_shared
from ibrobust.errors import IbrobustError

# The keys of images and labels of a half; its own name comes first, as in train_images. MedMNIST's files and Keras's
# mnist.npz have such keys.
_PAIRS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))
CLASS_NAMES = "class_names"


def load_array_file(path: Path, *, train: str | None = None, test: str | None = None) -> Dataset:
    """Return the data set in an .npz or .safetensors file.

    Its keys are ``test_images`` and ``test_labels``, or ``images`` and ``labels``; if there are training images
    ``train_images`` and ``train_labels``; and ``class_names``, a list of text (of .safetensors in the metadata, as
    JSON), else "0", "1", ... Shapes and dtypes are those of `Dataset.of`.

    Args:
        path: of the file.
        train: start of the keys of the training images, by default "train" if these are not the test images; "none"
            leaves them out.
        test: start of the keys of the test images, by default "test", or "val" if there are no test images.

    Raises:
        IbrobustError: the file cannot be read, a key is missing, both halves have the same keys, ``images`` stand
            beside ``val_images`` so that either may be the test images, or the content is not of that form.
    """
    try:
        with _opened(path) as (keys, read, listed):
            pairs = _pairs(path, keys, train, test)
            arrays = {key: read(key) for pair in pairs.values() for key in pair}
            names = _names(path, listed())
    except (SafetensorError, OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, IbrobustError):
            raise
        raise IbrobustError(
            f"The file {str(path)!r} cannot be read ({' '.join(str(error).split())}): write it with numpy.savez, or "
            "with safetensors.torch.save_file, from plain arrays, since Python objects are not unpickled."
        ) from error
    splits = {}
    for half, (images_key, labels_key) in pairs.items():
        what = f"{path.name} {half}"
        images = images_of(arrays[images_key], what)
        splits[half] = Split(images, labels_of(arrays[labels_key], len(images), what))
    class_names = names if names is not None else numbered_classes(half.labels for half in splits.values())
    return Dataset(path.stem, class_names, splits.get("train", no_images(splits["test"])), splits["test"])


def _pairs(path: Path, keys: Collection[str], train: str | None, test: str | None) -> dict[str, tuple[str, str]]:
    """Return the keys of images and labels of each half that there is."""
    halves: dict[str, tuple[str, str]] = {}
    for half, chosen in (("test", test), ("train", train)):
        if chosen == NO_TRAINING:
            continue
        pairs = [(images.format(chosen or half), labels.format(chosen or half)) for images, labels in _PAIRS]
        if half == "test" and chosen is None:
            pairs += [("images", "labels"), ("val_images", "val_labels")]
        found = next((pair for pair in pairs if pair[0] in keys), None)
        if found is None and (half == "test" or chosen is not None):
            raise IbrobustError(
                f"The file {str(path)!r} has no {pairs[0][0]}: it holds {', '.join(sorted(keys)) or 'nothing'}, and "
                f"{' or '.join(' with '.join(pair) for pair in dict.fromkeys((pairs[0], pairs[-2])))} are needed."
            )
        if found == ("images", "labels") and "val_images" in keys:
            raise IbrobustError(
                f"The file {str(path)!r} has images and val_images, and either may be the test images: rename images "
                "to train_images or test_images (and labels likewise), or choose with the option test=val."
            )
        if found is not None and found[1] not in keys:
            raise IbrobustError(f"The file {str(path)!r} has {found[0]} and no {found[1]}: add them.")
        if found is not None and found in halves.values():
            refuse_shared(str(path), chosen)
        elif found is not None:
            halves[half] = found
    return halves


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Collection[str], Callable[[str], Any], Callable[[], Any]]]:
    """Yield the file's keys, what reads the array of a key, and what reads the class names."""
    if path.suffix == ".npz":
        # An archive alone: a file of one array, or a pickled object, is none.
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as arrays:
            named = CLASS_NAMES in arrays.files
            yield arrays.files, arrays.__getitem__, lambda: arrays[CLASS_NAMES].tolist() if named else None
    else:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(CLASS_NAMES)
            yield list(file.keys()), file.get_tensor, lambda: None if text is None else json.loads(text)


def _names(path: Path, listed: Any) -> tuple[str, ...] | None:
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise IbrobustError(f"The class_names in {str(path)!r} are no list of text: give one name for each class.")
    return tuple(listed)
