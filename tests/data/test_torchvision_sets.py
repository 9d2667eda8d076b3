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

from ibrobust.data import load_dataset, torchvision_sets
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


def write_mnist(folder: Path, *, halves: tuple[str, str] = ("train", "t10k"), labels: range = range(10)) -> np.ndarray:
    """Write four files in the layout of MNIST, with these labels in both halves; return the test pixels (N, 28, 28)."""
    folder.mkdir(parents=True)
    count = len(labels)
    pixels = RANDOM.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    for half in halves:
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(labels))
    return pixels


@pytest.fixture
def ten_images(monkeypatch) -> None:
    """As if MNIST had been published with ten images in each half."""
    monkeypatch.setitem(torchvision_sets._COUNTS, "MNIST", {"True": 10, "False": 10})


@pytest.mark.usefixtures("ten_images")
def test_mnist_is_grey_and_its_classes_are_digits(tmp_path):
    pixels = write_mnist(tmp_path / "MNIST" / "raw")
    data = load_dataset("mnist", data_dir=tmp_path)
    assert data.test.images.shape == (10, 1, 28, 28)
    assert data.test.images.numpy().tobytes() == pixels.tobytes()
    assert data.class_names == tuple("0123456789")
    three = load_dataset("mnist:channels=3", data_dir=tmp_path)
    assert torch.equal(three.train.images[:, 1:2], data.train.images)
    assert (three.train.images.shape, three.source) == ((10, 3, 28, 28), "mnist:channels=3")


@pytest.mark.parametrize("name", ["mnist", "torchvision:FashionMNIST", "torchvision:KMNIST"])
def test_a_half_with_another_number_of_images_is_refused(tmp_path, name):
    kind = name.removeprefix("torchvision:").replace("mnist", "MNIST")
    write_mnist(tmp_path / kind / "raw")
    with pytest.raises(IbrobustError, match=f"not as {kind} was published .10 images instead of 10,000.: remove the"):
        load_dataset(name, data_dir=tmp_path)


@pytest.mark.usefixtures("ten_images")
@pytest.mark.parametrize("kept", [0, 3, 10, 1000])
@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_file_of_mnist_that_is_cut_short_is_refused(tmp_path, file, kept):
    write_mnist(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / file
    content = path.read_bytes()
    path.write_bytes(content[: min(kept, len(content) - 1)])
    with pytest.raises(IbrobustError, match="not as MNIST was published .it is cut short or damaged.: remove the"):
        load_dataset("mnist", data_dir=tmp_path)


def test_the_letters_of_emnist_are_26_classes(tmp_path, monkeypatch):
    monkeypatch.setitem(torchvision_sets._COUNTS, "EMNIST letters", {"True": 26, "False": 26})
    halves = ("emnist-letters-train", "emnist-letters-test")
    pixels = write_mnist(tmp_path / "EMNIST" / "raw", halves=halves, labels=range(1, 27))
    for options in ("", ",size=28"):
        data = load_dataset(f"torchvision:EMNIST:split=letters{options}", data_dir=tmp_path)
        assert data.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
        assert data.train.labels.tolist() == data.test.labels.tolist() == list(range(26))
        assert data.test.images[3, 0].numpy().tolist() == pixels[3].tolist()


def test_a_damaged_split_of_emnist_is_refused(tmp_path):
    write_mnist(tmp_path / "EMNIST" / "raw", halves=("emnist-digits-train", "emnist-digits-test"))
    with pytest.raises(IbrobustError, match="not as EMNIST was published .10 images instead of 40,000"):
        load_dataset("torchvision:EMNIST:split=digits", data_dir=tmp_path)


@pytest.fixture
def qmnist(tmp_path: Path, monkeypatch) -> Path:
    """A data folder with 3 training and 4 test images of QMNIST."""
    monkeypatch.setitem(torchvision_sets._COUNTS, "QMNIST", {"train": 3, "test": 4, "test10k": 4})
    folder = tmp_path / "QMNIST" / "raw"
    folder.mkdir(parents=True)
    for half, count in (("train", 3), ("test", 4)):
        pixels = RANDOM.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.zeros((count, 8), dtype=">i4")
        labels[:, 0] = range(count)
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (folder / f"qmnist-{half}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = struct.pack(">III", 3074, count, 8)
        (folder / f"qmnist-{half}-labels-idx2-int").write_bytes(header + labels.tobytes())
    return tmp_path


@pytest.mark.parametrize(
    ("options", "counts"), [("", (3, 4)), (":test=test10k", (3, 4)), (":test=train", (0, 3)), (":train=none", (0, 4))]
)
def test_the_splits_of_qmnist(qmnist, options, counts):
    data = load_dataset(f"torchvision:QMNIST{options}", data_dir=qmnist)
    assert (len(data.train), len(data.test)) == counts
    assert data.test.labels.tolist() == list(range(counts[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("what=test", "no option 'what': choose from channels, size, test, train"),
        ("compat=False", "no option 'compat'"),
        ("train=test", "training images 'test' of 'QMNIST' are test images as well.*train=none"),
        ("train=test,test=test10k", "training images 'test'"),
        ("train=nist", "training images 'nist'"),
    ],
)
def test_training_images_of_qmnist_are_no_test_images(qmnist, options, message):
    with pytest.raises(IbrobustError, match=message):
        load_dataset(f"torchvision:QMNIST:{options}", data_dir=qmnist)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A data folder with the 2 cats and 1 dog of each half of OxfordIIITPet."""
    folder = tmp_path / "oxford-iiit-pet"
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True)
    breeds = ("Abyssinian", "Bengal", "american_bulldog")
    for half in ("trainval", "test"):
        lines = [f"{name}_{half} {index + 1} {1 + (index == 2)} 1" for index, name in enumerate(breeds)]
        (folder / "annotations" / f"{half}.txt").write_text("\n".join(lines) + "\n")
        for name in breeds:
            Image.fromarray(RANDOM.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(
                folder / "images" / f"{name}_{half}.jpg"
            )
    return tmp_path


@pytest.mark.parametrize(
    ("options", "names", "labels"),
    [
        ("", ("Abyssinian", "Bengal", "American Bulldog"), [0, 1, 2]),
        (":target_types=category", ("Abyssinian", "Bengal", "American Bulldog"), [0, 1, 2]),
        (":target_types=binary-category", ("Cat", "Dog"), [0, 0, 1]),
    ],
)
def test_the_class_names_are_those_of_the_targets(pets, options, names, labels):
    data = load_dataset(f"torchvision:OxfordIIITPet{options}", data_dir=pets)
    assert (data.class_names, data.test.labels.tolist()) == (names, labels)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("Places365:small", "False", False),
        ("Places365:small", "True", True),
        ("DTD:partition", "2", 2),
        ("STL10:folds", "0", 0),
        ("FGVCAircraft:annotation_level", "family", "family"),
    ],
)
def test_an_option_has_the_type_of_its_argument(name, text, value):
    name, option = name.split(":")
    given = torchvision_sets._arguments(name, getattr(datasets, name), {option: text})
    assert given == {option: value}
    assert type(given[option]) is type(value)


def test_a_split_that_holds_the_test_images_is_not_trained_on():
    assert torchvision_sets._share_images("trainval", "val")
    assert torchvision_sets._share_images("test10k", "test")
    assert not torchvision_sets._share_images("train", "val")


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


@pytest.mark.usefixtures("ten_images")
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
        ("mnist:test=True", "one training and one test half: leave train and test out"),
        ("mnist:train=False", "one training and one test half: leave train and test out"),
        ("svhn:train=test", "training images 'test' of 'svhn' are test images as well.*train=none"),
        ("torchvision:STL10:train=train+unlabeled,test=unlabeled", "are test images as well"),
        ("torchvision:OxfordIIITPet:target_types=segmentation", "'segmentation' of torchvision's OxfordIIITPet are no"),
        ("torchvision:Places365:small=no", "does not take small=no: give True or False"),
        ("torchvision:DTD:partition=one", "does not take partition=one: give a whole number"),
        ("torchvision:Food101:loader=x", "no option 'loader'"),
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
