"""Any tree of images ``DIR/{train,test}/<class>/*`` as a data set, decoded once and cached by content."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ibrobust.atomic import atomic_path
from ibrobust.data.dataset import Dataset, Split
from ibrobust.errors import IbrobustError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Listing:
    class_names: tuple[str, ...]
    files: dict[str, list[tuple[Path, int]]]  # split -> (file, class index), sorted by class and name


def load_image_folder(root: Path, *, cache: Path | None = None, progress: Progress | None = None) -> Dataset:
    """Return the data set in an image folder; class indices follow the sorted folder names.

    Every file is read at each call, since the cache of decoded images is keyed by the files' names and bytes;
    decoding, the slow part, is done once.

    Args:
        root: folder with ``train/<class>/*`` and ``test/<class>/*``, all images of one size.
        cache: folder for the decoded tensors; no cache if None.
        progress: called with (images decoded, images in all).

    Raises:
        IbrobustError: a folder is missing or empty, train and test have differing classes, or a file is not an
            image or not of the same size as the others.
    """
    listing = _list_files(root)
    key = _content_key(root, listing)
    cached = cache / f"{key}.safetensors" if cache else None
    if cached and cached.is_file():
        dataset = _read_cache(cached, root.name, listing.class_names)
        if dataset is not None:
            return dataset
    dataset = _decode(root, listing, progress)
    if cached:
        _write_cache(cached, dataset)
    return dataset


def _list_files(root: Path) -> _Listing:
    if not root.is_dir():
        raise IbrobustError(
            f"The data set {str(root)!r} is neither a known name (cifar10, digits) nor a folder: give one of "
            "these names or a folder with train/<class>/* and test/<class>/* images."
        )
    classes = {}
    for split in ("train", "test"):
        folder = root / split
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        if not names:
            raise IbrobustError(
                f"The data set folder {str(root)!r} has no class folders in {split}/: it must hold "
                f"{split}/<class>/* images."
            )
        classes[split] = names
    if classes["train"] != classes["test"]:
        differing = sorted(set(classes["train"]) ^ set(classes["test"]))
        raise IbrobustError(
            f"The classes of {str(root)!r} differ between train and test ({', '.join(differing)}): "
            "both must have the same class folders."
        )
    names = classes["train"]
    if len(names) < 2:
        raise IbrobustError(f"The data set {str(root)!r} has one class only, {names[0]!r}: at least 2 are needed.")
    files: dict[str, list[tuple[Path, int]]] = {}
    for split in ("train", "test"):
        files[split] = []
        for index, name in enumerate(names):
            # Names that start with a dot are the file system's own (.DS_Store), never images.
            found = sorted(file for file in (root / split / name).iterdir() if not file.name.startswith("."))
            if not found:
                raise IbrobustError(f"The class folder {str(root / split / name)!r} is empty: put images in it.")
            files[split] += [(file, index) for file in found]
    return _Listing(tuple(names), files)


def _content_key(root: Path, listing: _Listing) -> str:
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for file, _ in listing.files[split]:
            if not file.is_file():
                raise IbrobustError(f"{str(file)!r} is not a file: a class folder holds images only.")
            content = file.read_bytes()
            digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _decode(root: Path, listing: _Listing, progress: Progress | None) -> Dataset:
    import numpy as np
    from PIL import Image

    total = sum(len(files) for files in listing.files.values())
    done = 0
    size: tuple[int, int] | None = None
    splits = {}
    for split, files in listing.files.items():
        pixels: list[Tensor] = []
        for file, _ in files:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    with Image.open(file) as image:
                        array = np.array(image.convert("RGB"))  # (H, W, 3)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning) as error:
                raise IbrobustError(
                    f"{str(file)!r} cannot be read as an image ({error}): remove it or replace it."
                ) from error
            if size is None:
                size = array.shape[:2]
            if array.shape[:2] != size:
                raise IbrobustError(
                    f"{str(file)!r} is {array.shape[1]}x{array.shape[0]} pixels where the images before it are "
                    f"{size[1]}x{size[0]}: bring all images to one size."
                )
            pixels.append(torch.from_numpy(array))
            done += 1
            if progress and done % 1000 == 0:
                progress(done, total)
        images = torch.stack(pixels).permute(0, 3, 1, 2).contiguous()  # (N, 3, H, W)
        splits[split] = Split(images, torch.tensor([index for _, index in files]))
    if progress:
        progress(total, total)
    return Dataset(root.name, listing.class_names, splits["train"], splits["test"])


def _write_cache(path: Path, dataset: Dataset) -> None:
    from safetensors.torch import save_file

    tensors = {
        f"{name}.{part}": getattr(split, part)
        for name, split in (("train", dataset.train), ("test", dataset.test))
        for part in ("images", "labels")
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"fingerprint": dataset.fingerprint})


def _read_cache(path: Path, name: str, class_names: tuple[str, ...]) -> Dataset | None:
    """Return the cached data set, or None where the cache is damaged and must be made again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            recorded = file.metadata()["fingerprint"]
        train, test = (Split(tensors[f"{half}.images"], tensors[f"{half}.labels"]) for half in ("train", "test"))
    except (SafetensorError, OSError, KeyError, TypeError):
        return None
    dataset = Dataset(name, class_names, train, test)
    return dataset if dataset.fingerprint == recorded else None
