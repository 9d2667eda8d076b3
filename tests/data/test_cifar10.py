"""The download, from a small archive of CIFAR-10's layout that is served on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Yield the pixels by file name of an archive that torchvision will download and find genuine."""
    random = np.random.default_rng(0)
    pixels, files = {}, {}
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        pixels[name] = random.integers(0, 256, (20, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": pixels[name], "labels": [n % 10 for n in range(20)]})
    files["batches.meta"] = pickle.dumps({"label_names": NAMES})
    archive = tmp_path / "served" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))

    def md5(content: bytes) -> str:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(archive.parent)))
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.read_bytes()))
    monkeypatch.setattr(CIFAR10, "train_list", [[n, md5(files[n])] for n in files if n.startswith("data")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(files["test_batch"])]])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5(files["batches.meta"])}
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield pixels
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_downloaded_pixels_and_labels_are_those_served(served, tmp_path):
    data = load_dataset("cifar10", data_dir=tmp_path / "data")
    assert (len(data.train), len(data.test), data.class_names) == (100, 20, tuple(NAMES))
    expected = torch.from_numpy(served["data_batch_2"][3]).view(3, 32, 32)
    assert torch.equal(data.train.images[23], expected)
    assert int(data.test.labels[13]) == 3


def test_what_is_there_already_is_not_downloaded(served, tmp_path, monkeypatch):
    load_dataset("cifar10", data_dir=tmp_path / "data")
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/nothing.tar.gz")
    assert len(load_dataset("cifar10", data_dir=tmp_path / "data").test) == 20


def test_a_failed_download_is_one_sentence_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/nothing.tar.gz")
    with pytest.raises(IbrobustError, match=r"could not be downloaded.*image folder"):
        load_dataset("cifar10", data_dir=tmp_path / "data")


def test_a_data_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IbrobustError, match="can be written"):
        load_dataset("cifar10", data_dir=tmp_path / "file" / "data")


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_an_altered_file_is_named_and_never_replaced_by_a_download(served, tmp_path, file):
    load_dataset("cifar10", data_dir=tmp_path / "data")
    altered = tmp_path / "data" / "cifar-10-batches-py" / file
    altered.write_bytes(b"mine")
    with pytest.raises(IbrobustError, match=f"{file}' is not as CIFAR-10 was published.*remove the folder"):
        load_dataset("cifar10", data_dir=tmp_path / "data")
    assert altered.read_bytes() == b"mine"


def test_a_missing_file_is_downloaded(served, tmp_path):
    load_dataset("cifar10", data_dir=tmp_path / "data")
    (tmp_path / "data" / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert len(load_dataset("cifar10", data_dir=tmp_path / "data").train) == 100
