"""Any tree of images ``DIR/{train,test}/<class>/*`` as a data set, decoded once and cached by content."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ibrobust.atomic import write_tensors
from ibrobust.data.dataset import Dataset, Split
from ibrobust.errors import IbrobustError

if TYPE_CHECKING:
    import numpy as np

Progress = Callable[[int, int], None]

# Part of the cache's key, with Pillow's version: increase it if the same file would give other pixels.
DECODER_VERSION = 2


@dataclass(frozen=True)
class _Listing:
    class_names: tuple[str, ...]
    files: dict[str, list[tuple[Path, int]]]  # split -> (file, class index), sorted by class and name


def load_image_folder(root: Path, *, cache: Path | None = None, progress: Progress | None = None) -> Dataset:
    """Return the data set in an image folder; class indices follow the sorted folder names.

    Every file is read at each call, since the cache of decoded images is keyed by the files' names and bytes, and by
    the decoder; decoding, the slow part, is done once.

    Files and folders whose names start with a dot are left out. Several spellings of a name in Unicode (NFC, NFD) are
    one class. Pixels are read as stored, as in torchvision's ImageFolder: an orientation in EXIF data is not applied,
    and transparency is dropped. Grey images of 16 bits keep their 8 upper bits.

    Args:
        root: folder with ``train/<class>/*`` and ``test/<class>/*``, all images of one size.
        cache: folder for the decoded tensors; no cache if None, and a warning if it cannot be written.
        progress: called with (images decoded, total images).

    Raises:
        IbrobustError: a folder is missing, empty or cannot be read, train and test have different classes, or a file is
            not an image, has pixels without a known range, or differs in size from the others.
    """
    try:
        listing = _list_files(root)
        key = _content_key(root, listing)
    except OSError as error:
        raise IbrobustError(f"The data set folder {str(root)!r} cannot be read ({error}): make it readable.") from error
    name = root.name if _is_text(root.name) else ascii(root.name)
    cached = cache / f"{key}.safetensors" if cache else None
    if cached:
        dataset = _read_cache(cached, name, listing.class_names)
        if dataset is not None:
            return dataset
    dataset = _decode(name, listing, progress)
    # A file may have changed since the key was computed.
    if cached and _content_key(root, listing) == key:
        try:
            _write_cache(cached, dataset)
        except OSError as error:
            warnings.warn(
                f"The images will be decoded again the next time, since {str(cached)!r} cannot be written ({error}).",
                stacklevel=2,
            )
    return dataset


def _list_files(root: Path) -> _Listing:
    if not root.is_dir():
        raise IbrobustError(
            f"The data set {str(root)!r} is neither a known name (cifar10, digits) nor a folder: give one of "
            "these names or a folder with train/<class>/* and test/<class>/* images."
        )
    classes = {split: _class_folders(root, split) for split in ("train", "test")}
    if classes["train"].keys() != classes["test"].keys():
        differing = sorted(classes["train"].keys() ^ classes["test"].keys())
        raise IbrobustError(
            f"The classes of {str(root)!r} differ between train and test ({', '.join(differing)}): "
            "both must have the same class folders."
        )
    names = sorted(classes["train"])
    if len(names) < 2:
        raise IbrobustError(f"The data set {str(root)!r} has one class only, {names[0]!r}: at least 2 are needed.")
    files: dict[str, list[tuple[Path, int]]] = {}
    for split in ("train", "test"):
        files[split] = []
        for index, name in enumerate(names):
            found = [file for folder in classes[split][name] for file in _visible(folder)]
            if not found:
                raise IbrobustError(f"The class folder {str(classes[split][name][0])!r} is empty: put images in it.")
            files[split] += [(file, index) for file in sorted(found, key=lambda file: (_composed(file.name), file))]
    return _Listing(tuple(names), files)


def _class_folders(root: Path, split: str) -> dict[str, list[Path]]:
    """Return the folders of each class: several if its name occurs in several Unicode spellings, else one."""
    folders: dict[str, list[Path]] = {}
    for entry in sorted(_visible(root / split)) if (root / split).is_dir() else []:
        if not entry.is_dir():
            continue
        name = _composed(entry.name)
        if not _is_text(name):  # no card or table could show it
            raise IbrobustError(f"The name of the class folder {str(entry)!r} is not text: rename it.")
        folders.setdefault(name, []).append(entry)
    if not folders:
        raise IbrobustError(
            f"The data set folder {str(root)!r} has no class folders in {split}/: it must hold "
            f"{split}/<class>/* images."
        )
    return folders


def _is_text(name: str) -> bool:
    """Return whether a name is text: the file system gives other bytes as halves of characters."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in name)


def _visible(folder: Path) -> list[Path]:
    # Names that start with a dot are of the file system or of tools (.DS_Store, .ipynb_checkpoints), never images.
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _composed(name: str) -> str:
    # Some systems store accents as characters of their own (NFD): the same name.
    return unicodedata.normalize("NFC", name)


def _content_key(root: Path, listing: _Listing) -> str:
    import PIL

    digest = hashlib.sha256(f"{DECODER_VERSION}\0{PIL.__version__}\0".encode())
    for split in ("train", "test"):
        for file, _ in listing.files[split]:
            if not file.is_file():
                raise IbrobustError(f"{str(file)!r} is not a file: a class folder holds images only.")
            content = file.read_bytes()
            digest.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0{len(content)}\0"))
            digest.update(content)
    return digest.hexdigest()


def _decode(name: str, listing: _Listing, progress: Progress | None) -> Dataset:
    total = sum(len(files) for files in listing.files.values())
    done = 0
    size: tuple[int, int] | None = None
    splits = {}
    for split, files in listing.files.items():
        pixels: list[Tensor] = []
        for file, _ in files:
            array = _pixels(file)
            if size is None:
                size = array.shape[:2]
            if array.shape[:2] != size:
                raise IbrobustError(
                    f"{str(file)!r} is {array.shape[1]}x{array.shape[0]} pixels, but the images before it are "
                    f"{size[1]}x{size[0]}: bring all images to one size."
                )
            pixels.append(torch.from_numpy(array))
            done += 1
            if progress and done % max(total // 20, 1) == 0:
                progress(done, total)
        images = torch.stack(pixels).permute(0, 3, 1, 2).contiguous()  # (N, 3, H, W)
        splits[split] = Split(images, torch.tensor([index for _, index in files]))
    if progress:
        progress(total, total)
    return Dataset(name, listing.class_names, splits["train"], splits["test"])


def _pixels(file: Path) -> np.ndarray[Any, Any]:
    """Return the pixels (H, W, 3) uint8 of an image file."""
    import numpy as np
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                # A PNG or PGM of 16 bits has this mode in some versions of Pillow.
                if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
                    return np.repeat(_upper_bits(image)[..., None], 3, axis=2)
                # For these Pillow cuts off all above 255.
                if image.mode not in ("I", "F"):
                    return np.array(image.convert("RGB"))
                mode = image.mode
    # Pillow's readers raise many types of errors for a damaged file.
    except Exception as error:
        raise IbrobustError(f"{str(file)!r} cannot be read as an image ({error}): remove it or replace it.") from error
    raise IbrobustError(
        f"{str(file)!r} has pixels of 32 bits or with signs (Pillow's mode {mode!r}), and it is unknown which values "
        "mean "
        "black and white: store it with 8 or 16 bits, without signs."
    )


def _upper_bits(image: Any) -> np.ndarray[Any, Any]:
    """Return the 8 upper bits (H, W) uint8 of a grey image of 16 bits, as Pillow does for colours."""
    import numpy as np

    tags = image.tag_v2 if image.format == "TIFF" else {}
    bits = tags.get(258, (16,))[0]  # BitsPerSample: of 12 bits Pillow gives the numbers as they are
    upper = (np.asarray(image).astype(np.int64) >> (bits - 8)).astype(np.uint8)
    return 255 - upper if tags.get(262) == 0 else upper  # PhotometricInterpretation: white is 0


def _write_cache(path: Path, dataset: Dataset) -> None:
    tensors = {
        f"{name}.{part}": getattr(split, part)
        for name, split in (("train", dataset.train), ("test", dataset.test))
        for part in ("images", "labels")
    }
    write_tensors(path, tensors, metadata={"fingerprint": dataset.fingerprint})


def _read_cache(path: Path, name: str, class_names: tuple[str, ...]) -> Dataset | None:
    """Return the cached data set, or None if it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            recorded = file.metadata()["fingerprint"]
        train, test = (Split(tensors[f"{half}.images"], tensors[f"{half}.labels"]) for half in ("train", "test"))
    except (SafetensorError, OSError, KeyError, TypeError):
        return None
    dataset = Dataset(name, class_names, train, test)
    return dataset if dataset.fingerprint == recorded else None
