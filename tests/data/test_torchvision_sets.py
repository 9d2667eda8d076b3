"""Data sets of torchvision, from tiny files in torchvision's own layout."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from ibrobust.data import load_dataset
from ibrobust.data.torchvision_sets import HALVES
from ibrobust.errors import IbrobustError

RANDOM = np.random.default_rng(0)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch) -> np.ndarray:
    """The test pixels (N, 3, 32, 32) of files in CIFAR-100's layout, with the labels 0, 1, 2, ..."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = RANDOM.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    contents = {
        name: pickle.dumps({"data": pixels.reshape(6, -1), "fine_labels": list(range(6))}) for name in ("train", "test")
    }
    contents["meta"] = pickle.dumps({"fine_label_names": [f"class {index}" for index in range(100)]})
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", md5(contents["train"])]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", md5(contents["test"])]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": md5(contents["meta"])}
    monkeypatch.setattr(datasets.CIFAR100, "meta", meta)
    return pixels


def test_cifar100(cifar100, tmp_path):
    data = load_dataset("cifar100", data_dir=tmp_path)
    assert (data.name, data.source, data.num_classes) == ("cifar100", "cifar100", 100)
    assert data.test.images.numpy().tobytes() == cifar100.tobytes()
    assert data.test.labels.tolist() == [0, 1, 2, 3, 4, 5]
    same = load_dataset("torchvision:CIFAR100", data_dir=tmp_path)
    assert (same.name, same.source, same.fingerprint) == ("CIFAR100", "torchvision:CIFAR100", data.fingerprint)


def test_svhn_counts_its_zeros_from_zero(tmp_path, monkeypatch):
    pixels = RANDOM.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)  # MATLAB's order
    monkeypatch.setattr(datasets.SVHN, "split_list", dict(datasets.SVHN.split_list))
    for split in ("train", "test"):
        file = tmp_path / f"{split}_32x32.mat"
        savemat(file, {"X": pixels, "y": np.array([[10], [1], [9], [2]], dtype=np.uint8)})
        monkeypatch.setitem(datasets.SVHN.split_list, split, ["", file.name, md5(file.read_bytes())])
    data = load_dataset("svhn", data_dir=tmp_path)
    assert data.test.labels.tolist() == [0, 1, 9, 2]
    assert data.class_names == tuple("0123456789")
    assert data.train.images[2].numpy().tolist() == pixels[:, :, :, 2].transpose(2, 0, 1).tolist()


def write_mnist(folder: Path) -> np.ndarray:
    """Write the four files of MNIST; return the test pixels (N, 28, 28)."""
    folder.mkdir(parents=True)
    pixels = RANDOM.integers(0, 256, (10, 28, 28), dtype=np.uint8)
    for half in ("train", "t10k"):
        header = struct.pack(">IIII", 2051, 10, 28, 28)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 10) + bytes(range(10)))
    return pixels


def test_mnist_is_grey_and_its_classes_are_digits(tmp_path):
    pixels = write_mnist(tmp_path / "MNIST" / "raw")
    data = load_dataset("mnist", data_dir=tmp_path)
    assert data.test.images.shape == (10, 1, 28, 28)
    assert data.test.images.numpy().tobytes() == pixels.tobytes()
    assert data.class_names == tuple("0123456789")
    three = load_dataset("mnist:channels=3", data_dir=tmp_path)
    assert torch.equal(three.train.images[:, 1:2], data.train.images)
    assert (three.train.images.shape, three.source) == ((10, 3, 28, 28), "mnist:channels=3")


def write_pictures(root: Path, *, sizes: list[tuple[int, int]], mode: str = "RGB") -> None:
    """Write Imagenette's folders, with one training picture and one test picture per class, of these sizes."""
    for index, name in enumerate(sorted(datasets.Imagenette._WNID_TO_CLASS)):
        for split in ("train", "val"):
            folder = root / "imagenette2" / split / name
            folder.mkdir(parents=True)
            width, height = sizes[index % len(sizes)]
            bands = Image.getmodebands(mode)
            array = RANDOM.integers(0, 256, (height, width, bands), dtype=np.uint8).squeeze()
            Image.fromarray(array).save(folder / "a.JPEG", format="PNG")


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_pictures_are_decoded_and_grey_ones_stay_grey(tmp_path, mode, channels):
    write_pictures(tmp_path, sizes=[(9, 8)], mode=mode)
    told: list[tuple[int, int]] = []
    data = load_dataset("torchvision:Imagenette", data_dir=tmp_path, progress=lambda *counts: told.append(counts))
    assert data.test.images.shape == (10, channels, 8, 9)
    name = sorted(datasets.Imagenette._WNID_TO_CLASS)[3]
    expected = np.array(Image.open(tmp_path / "imagenette2" / "val" / name / "a.JPEG"))
    expected = expected[None] if mode == "L" else expected.transpose(2, 0, 1)
    assert data.test.images[3].numpy().tolist() == expected.tolist()
    assert data.class_names[0] == "tench, Tinca tinca"
    assert told[-1] == (20, 20)


def test_training_images_can_be_left_out_and_equal_names_are_told_apart(tmp_path, monkeypatch):
    write_pictures(tmp_path, sizes=[(4, 4)])
    shutil.rmtree(tmp_path / "imagenette2" / "train")
    (tmp_path / "imagenette2" / "train").mkdir()
    names = dict.fromkeys(datasets.Imagenette._WNID_TO_CLASS, ("crane",))
    monkeypatch.setattr(datasets.Imagenette, "_WNID_TO_CLASS", names)
    data = load_dataset("torchvision:Imagenette:train=none", data_dir=tmp_path)
    assert (len(data.train), len(data.test)) == (0, 10)
    assert data.class_names[:2] == ("crane (0)", "crane (1)")
    write_mnist(tmp_path / "MNIST" / "raw")
    assert len(load_dataset("mnist:train=none", data_dir=tmp_path).train) == 0


def test_mixed_sizes_name_the_option_that_makes_them_one(tmp_path):
    write_pictures(tmp_path, sizes=[(16, 12), (8, 20)])
    with pytest.raises(IbrobustError, match="Image 1 of Imagenette is 8x20 pixels.*16x12.*:size=20"):
        load_dataset("torchvision:Imagenette", data_dir=tmp_path)
    data = load_dataset("torchvision:Imagenette:size=8", data_dir=tmp_path)
    assert data.train.images.shape == (10, 3, 8, 8)


def test_every_listed_data_set_is_one_of_torchvision():
    assert [name for name in HALVES if not hasattr(datasets, name)] == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:MNST", "'MNST' that ibrobust reads: did you mean"),
        ("torchvision:Kinetics", "no classification data set 'Kinetics'"),
        ("torchvision:MNIST:split=letters", "no option 'split': choose from"),
        ("torchvision:EMNIST:split=leters", "does not take these options.*leters"),
        ("torchvision:EMNIST", "does not take these options.*split"),
        ("torchvision:STL10:root=x", "no option 'root'"),
        ("mnist:test=val", "one training and one test half: leave train and test out"),
        ("mnist:size=0", "gives size=0: give a whole number"),
        ("mnist:channels=one", "gives channels=one"),
        ("digits:channels=2", "asked for in 2 channels"),
        ("digits:size=8", "no option 'size'"),
        ("digits:channels=1,channels=3", "gives an option twice"),
        ("memory:mine", "'mine' were given in memory.*`dataset`"),
        ("cifar-10", "did you mean cifar10"),
    ],
)
def test_wrong_names_and_options(tmp_path, spec, message):
    with pytest.raises(IbrobustError, match=message) as caught:
        load_dataset(spec, data_dir=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["mnist", "svhn", "cifar100", "torchvision:STL10"])
def test_without_a_network_the_remedy_names_the_files(tmp_path, monkeypatch, spec):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(IbrobustError, match=r"could not be downloaded there.*yourself.*`dataset='digits'`") as caught:
        load_dataset(spec, data_dir=tmp_path)
    assert "\n" not in str(caught.value)
