"""The download of the JPEG files, from a small archive of the repository's layout on the loopback interface."""

from __future__ import annotations

import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibrobust.data import load_dataset
from ibrobust.data.cifar10_jpeg import COMMIT
from ibrobust.errors import IbrobustError

FOLDER = f"CIFAR-10-images-{COMMIT}"
CLASSES = ("airplane", "truck")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The same images as a folder, made without the download."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            folder = tmp_path / "tree" / "cifar10-jpeg" / split / name
            folder.mkdir(parents=True)
            for index in range(3):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:04d}.jpg")
    return tmp_path / "tree" / "cifar10-jpeg"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Path):
    """Serve an archive as GitHub makes it of a commit; yield where it is."""
    file = tmp_path / "served" / f"{COMMIT}.tar.gz"
    file.parent.mkdir()
    with tarfile.open(file, "w:gz") as packed:
        packed.add(tree, arcname=FOLDER)
        for name in ("README.md", "../outside.jpg", f"{FOLDER}/train/../../0000.jpg", f"{FOLDER}/train/cat/x.sh"):
            info = tarfile.TarInfo(name if name.startswith((".", FOLDER)) else f"{FOLDER}/{name}")
            info.size = 5
            packed.addfile(info, io.BytesIO(b"other"))
        link = tarfile.TarInfo(f"{FOLDER}/train/truck/9999.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=file.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("ibrobust.data.cifar10_jpeg.ARCHIVE", f"http://127.0.0.1:{server.server_port}/{file.name}")
    yield file
    server.shutdown()
    server.server_close()


@pytest.fixture
def genuine(tree: Path, monkeypatch: pytest.MonkeyPatch):
    """Take the small tree for the whole one."""
    expected = load_dataset(str(tree))
    monkeypatch.setattr("ibrobust.data.cifar10_jpeg.FINGERPRINT", expected.fingerprint)
    return expected


def test_the_download_is_the_tree(archive, genuine, tmp_path):
    found = load_dataset("cifar10-jpeg", data_dir=tmp_path / "data")
    assert (found.name, found.fingerprint, found.class_names) == ("cifar10-jpeg", genuine.fingerprint, CLASSES)
    assert sorted(entry.name for entry in (tmp_path / "data").iterdir()) == ["cifar10-jpeg", "decoded"]
    files = [path for path in (tmp_path / "data" / "cifar10-jpeg").rglob("*") if path.is_file()]
    assert len(files) == 12
    assert not list(tmp_path.rglob("outside.jpg"))


def test_images_that_are_there_are_not_downloaded(archive, genuine, tree):
    archive.unlink()
    assert load_dataset("cifar10-jpeg", data_dir=tree.parent).fingerprint == genuine.fingerprint


def test_other_images_are_refused(archive, tmp_path):
    with pytest.raises(IbrobustError, match="are not those that ibrobust's models were trained on: remove the folder"):
        load_dataset("cifar10-jpeg", data_dir=tmp_path / "data")


@pytest.mark.parametrize("content", [None, b"<html>", "cut", "empty"])
def test_a_download_that_fails_is_one_sentence_and_leaves_nothing(archive, genuine, tmp_path, content):
    whole = archive.read_bytes()
    if content is None:
        archive.unlink()
    elif content == "empty":
        with tarfile.open(archive, "w:gz"):
            pass
    else:
        archive.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    with pytest.raises(IbrobustError, match=r"could not be downloaded from .*`dataset='digits'`") as refused:
        load_dataset("cifar10-jpeg", data_dir=tmp_path / "data")
    assert "\n" not in str(refused.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_failed_download_names_cifar10_if_it_is_there(archive, genuine, tmp_path):
    archive.unlink()
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(IbrobustError, match=r"could not be downloaded from .*`dataset='cifar10'` in '.*data'"):
        load_dataset("cifar10-jpeg", data_dir=tmp_path / "data")


def test_progress_is_told(archive, genuine, tmp_path, monkeypatch):
    told: list[tuple[int, int]] = []
    load_dataset("cifar10-jpeg", data_dir=tmp_path / "data", progress=lambda *counts: told.append(counts))
    assert told[-1] == (12, 12)


@pytest.mark.parametrize(("name", "said"), [("cifar", "did you mean cifar10"), ("digit", "did you mean digits")])
def test_a_misspelt_name_gets_the_nearest(name, said):
    with pytest.raises(IbrobustError, match=said):
        load_dataset(name)
