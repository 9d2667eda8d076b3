from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ibrobust.data import image_folder, load_dataset
from ibrobust.errors import IbrobustError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes, three training and two test images each, of known pixels."""
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(random.integers(0, 256, (8, 6, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "pets"


def test_pixels_labels_and_classes_are_those_of_the_files(tree):
    data = load_dataset(str(tree))
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = torch.from_numpy(np.array(Image.open(tree / "test" / "dog" / "1.png"))).permute(2, 0, 1)
    assert torch.equal(data.test.images[3], expected)


def test_grey_and_palette_images_become_rgb(tree):
    Image.open(tree / "train" / "cat" / "0.png").convert("L").save(tree / "train" / "cat" / "0.png")
    image = load_dataset(str(tree)).train.images[0]
    assert torch.equal(image[0], image[2])


def test_the_second_reading_decodes_nothing(tree, monkeypatch):
    first = load_dataset(str(tree))

    def refuse(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(image_folder, "_decode", refuse)
    assert load_dataset(str(tree)).fingerprint == first.fingerprint


def test_a_changed_file_of_the_same_size_and_time_is_noticed(tree):
    before = load_dataset(str(tree))
    file = tree / "train" / "cat" / "0.png"
    shutil.copy2(tree / "train" / "dog" / "0.png", file)
    assert load_dataset(str(tree)).fingerprint != before.fingerprint


def test_a_damaged_cache_is_made_again(tree, home):
    before = load_dataset(str(tree))
    (cached,) = (home / "data" / "decoded").glob("*.safetensors")
    cached.write_bytes(cached.read_bytes()[:100])
    assert load_dataset(str(tree)).fingerprint == before.fingerprint


def test_files_that_begin_with_a_dot_are_passed_over(tree):
    (tree / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    assert len(load_dataset(str(tree)).train) == 6


def expect_error(tree: Path, match: str) -> None:
    with pytest.raises(IbrobustError, match=match):
        load_dataset(str(tree))


def test_a_folder_that_is_missing(tmp_path):
    expect_error(tmp_path / "nowhere", "nowhere.*neither a known name")


def test_a_folder_without_classes(tmp_path):
    (tmp_path / "train").mkdir()
    expect_error(tmp_path, "no class folders in train/")


def test_a_class_that_is_missing_in_the_test_images(tree):
    shutil.rmtree(tree / "test" / "dog")
    expect_error(tree, "differ between train and test.*dog")


def test_an_empty_class(tree):
    shutil.rmtree(tree / "test" / "dog")
    (tree / "test" / "dog").mkdir()
    expect_error(tree, "dog.*is empty")


def test_a_file_that_is_no_image(tree):
    (tree / "test" / "dog" / "notes.txt").write_text("not an image")
    expect_error(tree, "notes.txt.*cannot be read as an image")


def test_an_image_that_is_cut_short(tree):
    file = tree / "test" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    expect_error(tree, "1.png.*cannot be read as an image")


def test_an_image_of_another_size(tree):
    Image.new("RGB", (5, 5)).save(tree / "test" / "dog" / "2.png")
    expect_error(tree, "2.png.*5x5 pixels.*6x8")


def test_nothing_is_cached_where_a_file_is_no_image(tree, home):
    (tree / "test" / "dog" / "notes.txt").write_text("not an image")
    with pytest.raises(IbrobustError):
        load_dataset(str(tree))
    assert not list(home.rglob("*.*"))
