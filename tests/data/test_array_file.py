"""Data sets in one file of arrays."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)  # (N, H, W, C)
GREY = RANDOM.integers(0, 256, (4, 5, 6), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 1])
NAMES = ["ant", "bee", "cow"]


@pytest.mark.parametrize(
    ("keys", "num_train"),
    [
        ({"images": RGB, "labels": LABELS}, 0),
        ({"test_images": RGB, "test_labels": LABELS, "train_images": RGB[:2], "train_labels": LABELS[:2]}, 2),
        ({"x_test": RGB, "y_test": LABELS, "x_train": RGB[:3], "y_train": LABELS[:3]}, 3),  # as Keras's
        ({"val_images": RGB, "val_labels": LABELS[:, None]}, 0),  # labels as MedMNIST's
        ({"images": RGB / 255, "labels": LABELS.astype(np.int16)}, 0),
        ({"images": RGB.transpose(0, 3, 1, 2), "labels": LABELS}, 0),
    ],
)
def test_an_npz_file(tmp_path, keys, num_train):
    np.savez(tmp_path / "farm.npz", **keys, class_names=np.array(NAMES))
    data = load_dataset(str(tmp_path / "farm.npz"))
    assert (data.name, data.class_names, len(data.train)) == ("farm", tuple(NAMES), num_train)
    assert data.test.images.permute(0, 2, 3, 1).numpy().tolist() == RGB.tolist()
    assert data.test.labels.tolist() == LABELS.tolist()
    assert data.source == str(tmp_path / "farm.npz")


def test_a_safetensors_file_has_its_class_names_in_the_metadata(tmp_path):
    tensors = {"images": torch.from_numpy(RGB).permute(0, 3, 1, 2).contiguous(), "labels": torch.from_numpy(LABELS)}
    save_file(tensors, tmp_path / "farm.safetensors", metadata={"class_names": json.dumps(NAMES)})
    np.savez(tmp_path / "farm.npz", images=RGB, labels=LABELS, class_names=np.array(NAMES))
    data = load_dataset(str(tmp_path / "farm.safetensors"))
    assert data.fingerprint == load_dataset(str(tmp_path / "farm.npz")).fingerprint


def test_grey_images_stay_grey_and_classes_without_names_are_numbered(tmp_path):
    np.savez(tmp_path / "a.npz", images=GREY, labels=LABELS)
    data = load_dataset(str(tmp_path / "a.npz"))
    assert (data.test.images.shape, data.class_names) == ((4, 1, 5, 6), ("0", "1", "2"))
    assert load_dataset(f"{tmp_path / 'a.npz'}:channels=3").test.images.shape == (4, 3, 5, 6)


def test_another_half_by_its_name(tmp_path):
    np.savez(tmp_path / "a.npz", test_images=RGB, test_labels=LABELS, val_images=RGB[:3], val_labels=LABELS[:3])
    assert len(load_dataset(f"{tmp_path / 'a.npz'}:test=val").test) == 3
    np.savez(tmp_path / "b.npz", images=RGB, labels=LABELS, train_images=RGB, train_labels=LABELS)
    assert len(load_dataset(f"{tmp_path / 'b.npz'}:train=none").train) == 0


@pytest.mark.parametrize("train", ["test", "val"])
def test_the_test_images_are_no_training_images(tmp_path, train):
    halves = ("train", train)
    arrays = {f"{half}_images": RGB for half in halves} | {f"{half}_labels": LABELS for half in halves}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(
        IbrobustError, match=f"training images '{train}' of .*a.npz' are test images as well.*train=none"
    ):
        load_dataset(f"{tmp_path / 'a.npz'}:train={train}")
    data = load_dataset(f"{tmp_path / 'a.npz'}:test=train")  # to attack the training images
    assert (len(data.train), len(data.test)) == (0, 4)


ODD = np.array([{"a": 1}], dtype=object)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": RGB, "labels": LABELS}, "has no test_images: it holds labels, pictures, and test_images with"),
        ({"images": RGB}, "has images and no labels"),
        ({"images": RGB, "labels": LABELS[:3]}, "4 a.npz test images and 3 labels"),
        ({"images": RGB * 2.0, "labels": LABELS}, r"floats from \d+ to \d+, not in \[0, 1\]"),
        ({"images": RGB * 1.0, "labels": LABELS}, "divide them by 255"),
        ({"images": RGB / 255 - 0.5, "labels": LABELS}, "before any normalisation"),
        ({"images": np.where(RGB > 0, np.nan, 0.0), "labels": LABELS}, "have pixels that are NaN"),
        ({"images": RGB.astype(np.uint16) * 256, "labels": LABELS}, r"have 16 bits: give uint8, as \(images // 256\)"),
        ({"images": RGB.astype(np.uint16), "labels": LABELS}, r"have 16 bits: give uint8, as \(images\)\.astype"),
        ({"images": RGB.astype(np.int64), "labels": LABELS}, "dtype int64: give uint8"),
        ({"images": np.concatenate([RGB, RGB[..., :1]], axis=3), "labels": LABELS}, "the fourth channel.*transparency"),
        ({"images": RGB[0, 0], "labels": LABELS[:1]}, r"have the shape \(6, 3\)"),
        ({"images": RGB[:0], "labels": LABELS[:0]}, "There are no a.npz test images"),
        ({"images": RGB, "labels": LABELS + 1}, "The labels go from 1 to 3, and classes are counted from 0"),
        ({"images": RGB, "labels": LABELS + 1, "class_names": np.array(NAMES)}, "labels from 1 to 3, but there are 3"),
        ({"images": RGB, "labels": LABELS - 1}, "labels from -1 to 1, but classes are counted .* or give labels . 1"),
        ({"images": RGB, "labels": LABELS / 2}, "labels have the dtype float64"),
        ({"images": RGB, "labels": np.eye(4)[LABELS]}, r"labels have the shape \(4, 4\).*argmax"),
        ({"images": RGB, "labels": LABELS * 0}, "class names 0: at least 2"),
        ({"images": RGB, "labels": LABELS, "class_names": np.array(["a", "a", "b"])}, "each another one"),
        ({"images": RGB, "labels": LABELS, "class_names": LABELS[:3]}, "class_names in .* are no list of text"),
        ({"images": ODD, "labels": LABELS}, "cannot be read .*Python objects are not unpickled"),
        ({"images": RGB, "labels": LABELS, "class_names": ODD}, "Python objects are not unpickled"),
        (
            {"test_images": RGB, "test_labels": LABELS, "train_images": RGB[:, :4], "train_labels": LABELS},
            r"training images of shape \(3, 4, 6\) and test images of shape \(3, 5, 6\)",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(IbrobustError, match=message) as caught:
        load_dataset(str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"no archive", "cannot be read"),
        ("a.npz", pickle.dumps({"images": 1}), "cannot be read"),
        ("a.npz", b"", "cannot be read"),
        ("a.safetensors", b"no tensors", "cannot be read"),
        ("a.pkl", b"", "does not end in .npz or .safetensors"),
    ],
)
def test_a_file_of_another_kind(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IbrobustError, match=message) as caught:
        load_dataset(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_an_array_file_with_a_single_array_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", RGB)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(IbrobustError, match="cannot be read .*not a zip file"):
        load_dataset(str(tmp_path / "a.npz"))


def test_a_file_that_is_cut_short(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, images=RGB, labels=LABELS)
    content = bytearray(file.read_bytes())
    content[60:90] = bytes(30)
    file.write_bytes(content)
    with pytest.raises(IbrobustError, match="cannot be read"):
        load_dataset(str(file))


def test_an_option_of_another_kind_of_data_set(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=RGB, labels=LABELS)
    with pytest.raises(IbrobustError, match="no option 'size'"):
        load_dataset(f"{tmp_path / 'a.npz'}:size=3")


def test_images_beside_validation_images_are_not_taken_for_test_images(tmp_path):
    file = tmp_path / "mine.npz"
    np.savez(file, images=RGB, labels=[0, 1, 0, 1], val_images=RGB[:2], val_labels=[0, 1])
    with pytest.raises(IbrobustError, match="has images and val_images.*rename images to train_images or test_images"):
        load_dataset(str(file))
    assert len(load_dataset(f"{file}:test=val").test) == 2
