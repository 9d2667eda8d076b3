"""Any tree of images ``DIR/{train,test}/<class>/*`` as a data set, decoded once and cached by content."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ibrobust.atomic import write_tensors
from ibrobust.data.dataset import Dataset, Split, no_images
from ibrobust.data.names import FORMS, NO_TRAINING, refuse_shared
from ibrobust.data.pictures import Counter, Progress, one_tensor, pixels_of
from ibrobust.errors import IbrobustError

if TYPE_CHECKING:
    import numpy as np

# The folder of a half, of which the first that exists is used.
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "val", "valid", "validation")

# Part of the cache's key, with the versions of the packages that decode and scale: increase it if the same file would
# give other pixels.
DECODER_VERSION = 2


@dataclass(frozen=True)
class _Listing:
    class_names: tuple[str, ...]
    files: dict[str, list[tuple[Path, int]]]  # half -> (file, class index), sorted by class and name


def load_image_folder(
    root: Path,
    *,
    train: str | None = None,
    test: str | None = None,
    size: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Return the data set in an image folder; class indices follow the sorted folder names.

    Every file is read at each call, since the cache of decoded images is keyed by the files' names and bytes, and by
    the decoder; decoding, the slow part, is done once.

    Files and folders whose names start with a dot are left out. Several spellings of a name in Unicode (NFC, NFD) are
    one class. Pixels are read as stored, as in torchvision's ImageFolder: an orientation in EXIF data is not applied,
    and transparency is dropped. Grey images of 16 bits keep their 8 upper bits.

    Args:
        root: folder with ``train/<class>/*`` and ``test/<class>/*``, or ``val``, all images of one size. Without a
            folder of training images there are none.
        train: the folder of the training images, by default one of TRAIN_FOLDERS that does not hold the test images;
            "none" leaves them out.
        test: the folder of the test images, by default the first of TEST_FOLDERS that exists; ``.`` is `root` itself.
        size: of the images after scaling and cutting them, see `one_tensor`; by default all must have one size.
        cache: folder for the decoded tensors; no cache if None, and a warning if it cannot be written.
        progress: called with (images decoded, total images).

    Raises:
        IbrobustError: a folder is missing, empty or cannot be read, train and test are one folder or have different
            classes, or a file is not an image, has pixels without a known range, or differs in size from the others.
    """
    try:
        listing = _list_files(root, train, test)
        key = _content_key(root, listing, size)
    except OSError as error:
        raise IbrobustError(f"The data set folder {str(root)!r} cannot be read ({error}): make it readable.") from error
    name = root.name if _is_text(root.name) else ascii(root.name)
    cached = cache / f"{key}.safetensors" if cache else None
    if cached:
        dataset = _read_cache(cached, name, listing.class_names)
        if dataset is not None:
            return dataset
    dataset = _decode(name, listing, size, progress)
    # A file may have changed since the key was computed.
    if cached and _content_key(root, listing, size) == key:
        try:
            _write_cache(cached, dataset)
        except OSError as error:
            warnings.warn(
                f"The images will be decoded again the next time, since {str(cached)!r} cannot be written ({error}).",
                stacklevel=2,
            )
    return dataset


def _list_files(root: Path, train: str | None, test: str | None) -> _Listing:
    if not root.is_dir():
        raise IbrobustError(f"The data set {str(root)!r} is neither a known name nor a folder or file: give {FORMS}.")
    folders = {"train": _half(root, train, TRAIN_FOLDERS), "test": _half(root, test, TEST_FOLDERS)}
    if folders["train"] and folders["test"] and (root / folders["train"]).samefile(root / folders["test"]):
        refuse_shared(str(root), train)
        folders["train"] = None
    classes = {half: _class_folders(root, name) for half, name in folders.items() if name is not None}
    if "test" not in classes:
        raise IbrobustError(
            f"The data set folder {str(root)!r} has no folder of test images ({', '.join(TEST_FOLDERS)}): it must hold "
            "train/<class>/* and test/<class>/* images, or name its own, as in FOLDER:train=a,test=b."
        )
    if "train" in classes and classes["train"].keys() != classes["test"].keys():
        differing = sorted(classes["train"].keys() ^ classes["test"].keys())
        raise IbrobustError(
            f"The classes of {str(root)!r} differ between {folders['train']} and {folders['test']} "
            f"({', '.join(differing)}): both must have the same class folders."
        )
    names = sorted(classes["test"])
    if len(names) < 2:
        raise IbrobustError(f"The data set {str(root)!r} has one class only, {names[0]!r}: at least 2 are needed.")
    files: dict[str, list[tuple[Path, int]]] = {}
    for half, of_half in classes.items():
        files[half] = []
        for index, name in enumerate(names):
            found = [file for folder in of_half[name] for file in _visible(folder)]
            if not found:
                raise IbrobustError(f"The class folder {str(of_half[name][0])!r} is empty: put images in it.")
            files[half] += [(file, index) for file in sorted(found, key=lambda file: (_composed(file.name), file))]
    return _Listing(tuple(names), files)


def _half(root: Path, chosen: str | None, usual: tuple[str, ...]) -> str | None:
    if chosen == NO_TRAINING:
        return None
    if chosen is None:
        return next((name for name in usual if (root / name).is_dir()), None)
    if not (root / chosen).is_dir():
        there = ", ".join(sorted(entry.name for entry in _visible(root) if entry.is_dir())) or "none"
        raise IbrobustError(f"The data set folder {str(root)!r} has no folder {chosen!r}: its folders are {there}.")
    return chosen


def _class_folders(root: Path, split: str) -> dict[str, list[Path]]:
    """Return the folders of each class: several if its name occurs in several Unicode spellings, else one."""
    folders: dict[str, list[Path]] = {}
    for entry in sorted(_visible(root / split)):
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


def _content_key(root: Path, listing: _Listing, size: int | None) -> str:
    import PIL

    digest = hashlib.sha256(f"{DECODER_VERSION}\0{PIL.__version__}\0".encode())
    if size is not None:
        import torchvision

        digest.update(f"size {size}\0{torch.__version__}\0{torchvision.__version__}\0".encode())
    for files in listing.files.values():
        for file, _ in files:
            if not file.is_file():
                raise IbrobustError(f"{str(file)!r} is not a file: a class folder holds images only.")
            content = file.read_bytes()
            digest.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0{len(content)}\0"))
            digest.update(content)
    return digest.hexdigest()


def _decode(name: str, listing: _Listing, size: int | None, progress: Progress | None) -> Dataset:
    told = Counter(progress, sum(len(files) for files in listing.files.values()))
    halves = {
        half: Split(
            one_tensor(((repr(str(file)), _pixels(file)) for file, _ in files), size=size, told=told),
            torch.tensor([index for _, index in files]),
        )
        for half, files in listing.files.items()
    }
    return Dataset(name, listing.class_names, halves.get("train", no_images(halves["test"])), halves["test"])


def _pixels(file: Path) -> np.ndarray[Any, Any]:
    """Return the pixels (H, W, 3) uint8 of an image file."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return pixels_of(image, repr(str(file)))
    except IbrobustError:
        raise
    # Pillow's readers raise many types of errors for a damaged file.
    except Exception as error:
        raise IbrobustError(f"{str(file)!r} cannot be read as an image ({error}): remove it or replace it.") from error


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
        dataset = Dataset(name, class_names, train, test)
    except (SafetensorError, OSError, KeyError, TypeError, IbrobustError):
        return None
    return dataset if dataset.fingerprint == recorded else None
