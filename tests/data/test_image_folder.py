from __future__ import annotations

import os
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from ibrobust.data import image_folder, load_dataset
from ibrobust.errors import IbrobustError

# The same name in Unicode's two normal forms.
COMPOSED, DECOMPOSED = "\u00e9lan", "e\u0301lan"


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
    data = load_dataset(tree)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = torch.from_numpy(np.array(Image.open(tree / "test" / "dog" / "1.png"))).permute(2, 0, 1)
    assert torch.equal(data.test.images[3], expected)


def test_grey_and_palette_images_become_rgb(tree):
    Image.open(tree / "train" / "cat" / "0.png").convert("L").save(tree / "train" / "cat" / "0.png")
    image = load_dataset(str(tree)).train.images[0]
    assert torch.equal(image[0], image[2])


WIDE = np.linspace(0, 65535, 48).astype(np.uint16).reshape(8, 6)


def first_image(tree: Path, image: Image.Image, ending: str, **options: object) -> np.ndarray:
    """Return the first training image (3, H, W), `image` being in its place."""
    (tree / "train" / "cat" / "0.png").unlink()
    image.save(tree / "train" / "cat" / f"0.{ending}", **options)
    return load_dataset(str(tree)).train.images[0].numpy()


@pytest.mark.parametrize(("ending", "order"), [("png", "<"), ("tif", "<"), ("tif", ">"), ("pgm", "<")])
def test_grey_images_of_16_bits_keep_their_upper_bits(tree, ending, order):
    pixels = first_image(tree, Image.fromarray(WIDE.astype(f"{order}u2")), ending)
    assert (pixels == WIDE // 256).all()


def test_of_16_bits_with_white_as_zero_the_light_pixels_are_light(tree):
    pixels = first_image(tree, Image.fromarray(WIDE), "tif", tiffinfo={262: 0})
    assert (pixels == 255 - WIDE // 256).all()


def test_12_bits_reach_from_black_to_white(tree):
    twelve = (WIDE >> 4).flatten().tolist()
    packed = bytes(
        b for x, y in zip(twelve[::2], twelve[1::2], strict=True) for b in (x >> 4, (x & 15) << 4 | y >> 8, y & 255)
    )
    tags = {256: 6, 257: 8, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 8, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    (tree / "train" / "cat" / "0.tif").write_bytes(header + packed)
    (tree / "train" / "cat" / "0.png").unlink()
    pixels = load_dataset(str(tree)).train.images[0].numpy()
    assert (pixels == WIDE // 256).all()


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_pixels_without_a_known_range_are_refused(tree, kind):
    with pytest.raises(IbrobustError, match=r"0.tif.*unknown which values.*: store it with 8 or 16 bits"):
        first_image(tree, Image.fromarray(WIDE.astype(kind)), "tif")


def test_orientation_and_transparency_are_left_out_as_torchvision_does(tree):
    random = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(random.integers(0, 256, (8, 6, 4), dtype=np.uint8))
    pixels = first_image(tree, stored, "png", exif=exif)
    expected, _ = ImageFolder(tree / "train")[0]
    assert (pixels.transpose(1, 2, 0) == np.asarray(expected)).all()
    assert (pixels.transpose(1, 2, 0) == np.asarray(stored)[..., :3]).all()


@pytest.mark.parametrize("change", [("DECODER_VERSION", 99), ("PIL.__version__", "99.0")])
def test_another_decoder_decodes_again(tree, home, monkeypatch, change):
    load_dataset(str(tree))
    monkeypatch.setattr(*(change if "." in change[0] else (image_folder, *change)))
    load_dataset(str(tree))
    assert len(list((home / "data" / "decoded").iterdir())) == 2


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_another_version_of_what_scales_scales_again(tree, home, monkeypatch, package):
    for _ in range(2):
        load_dataset(f"{tree}:size=4")
        load_dataset(str(tree))  # not scaled
        monkeypatch.setattr(f"{package}.__version__", "99.0")
    assert len(list((home / "data" / "decoded").iterdir())) == 3


def test_a_file_that_is_changed_while_it_is_decoded_is_not_cached(tree, home, monkeypatch):
    decode = image_folder._decode

    def change_and_decode(*arguments):
        shutil.copy(tree / "train" / "dog" / "0.png", tree / "train" / "cat" / "0.png")
        return decode(*arguments)

    monkeypatch.setattr(image_folder, "_decode", change_and_decode)
    load_dataset(str(tree))
    assert not (home / "data" / "decoded").exists()


def test_a_cache_that_cannot_be_written_is_a_warning(tree, home):
    home.mkdir()
    (home / "data").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="decoded again the next time.*cannot be written"):
        assert load_dataset(str(tree)).class_names == ("cat", "dog")


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


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_folders_that_begin_with_a_dot_are_no_classes(tree, splits):
    for split in splits:
        shutil.copytree(tree / split / "cat", tree / split / ".ipynb_checkpoints")
    assert load_dataset(str(tree)).class_names == ("cat", "dog")


def test_a_class_is_one_however_its_accents_are_spelled(tree):
    for split, name in (("train", COMPOSED), ("test", DECOMPOSED)):
        (tree / split / "dog").rename(tree / split / name)
    data = load_dataset(str(tree))
    assert data.class_names == ("cat", COMPOSED)
    assert data.test.labels.tolist() == [0, 0, 1, 1]


def test_both_spellings_of_a_class_beside_each_other_are_put_together(tree):
    expected = load_dataset(str(tree)).train.images
    for split in ("train", "test"):
        (tree / split / "dog").rename(tree / split / COMPOSED)
        (tree / split / DECOMPOSED).mkdir()
    (tree / "train" / COMPOSED / "1.png").rename(tree / "train" / DECOMPOSED / "1.png")
    data = load_dataset(str(tree))
    assert data.class_names == ("cat", COMPOSED)
    assert torch.equal(data.train.images, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="a file system whose names are any bytes")
def test_a_file_name_that_is_not_text_is_read(tree):
    file = tree / "train" / "cat" / "2.png"
    file.rename(os.fsdecode(os.fsencode(tree / "train" / "cat") + b"/caf\xe9.png"))
    assert len(load_dataset(str(tree)).train) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="a file system whose names are any bytes")
def test_a_class_name_that_is_not_text_is_refused(tree):
    (tree / "train" / "cat").rename(os.fsdecode(os.fsencode(tree / "train") + b"/caf\xe9"))
    expect_error(tree, r"caf\\udce9.*is not text: rename it")


def test_an_image_that_claims_to_be_huge(tree):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    (tree / "train" / "cat" / "0.png").write_bytes(content)
    expect_error(tree, "0.png.*cannot be read as an image.*900000000 pixels")


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


def test_validation_images_are_the_test_images_if_there_are_no_others(tree):
    (tree / "test").rename(tree / "val")
    data = load_dataset(str(tree))
    assert (len(data.train), len(data.test)) == (6, 4)


def test_halves_by_their_names(tree):
    expected = load_dataset(str(tree))
    swapped = load_dataset(f"{tree}:train=test,test=train")
    assert torch.equal(swapped.test.images, expected.train.images)
    assert swapped.source == f"{tree}:train=test,test=train"
    with pytest.raises(IbrobustError, match="no folder 'dev': its folders are test, train"):
        load_dataset(f"{tree}:test=dev")


@pytest.mark.parametrize("train", ["test", "./test", "same"])
def test_the_test_images_are_no_training_images(tree, train):
    (tree / "same").symlink_to("test", target_is_directory=True)
    with pytest.raises(
        IbrobustError, match=f"training images '{train}' of .*pets' are test images as well.*train=none"
    ):
        load_dataset(f"{tree}:train={train}")
    data = load_dataset(f"{tree}:test=train")  # to attack the training images
    assert (len(data.train), len(data.test)) == (0, 6)


def test_training_images_can_be_left_out(tree):
    data = load_dataset(f"{tree}:train=none")
    assert (len(data.train), len(data.test)) == (0, 4)


def test_test_images_alone_are_a_data_set(tree):
    shutil.rmtree(tree / "train")
    data = load_dataset(str(tree))
    assert (len(data.train), len(data.test)) == (0, 4)
    assert load_dataset(f"{tree / 'test'}:test=.").test.labels.tolist() == [0, 0, 1, 1]


def test_images_of_several_sizes_are_scaled_and_cut(tree):
    Image.new("RGB", (20, 10), (9, 9, 9)).save(tree / "test" / "dog" / "1.png")
    with pytest.raises(IbrobustError, match=r"1.png' is 20x10 pixels.*6x8.*:size=10"):
        load_dataset(str(tree))
    for _ in range(2):  # the second time from the cache, whose key has the size
        data = load_dataset(f"{tree}:size=4")
        assert data.test.images.shape == (4, 3, 4, 4)
        assert (data.test.images[3] == 9).all()


def test_a_folder_whose_name_looks_like_one_with_options(tree):
    odd = tree.with_name("pets:test=val")
    tree.rename(odd)
    assert len(load_dataset(str(odd)).test) == 4
