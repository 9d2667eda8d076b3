"""`--dataset` and `--split`: images of every source, and what is said if they do not fit the model."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ibrobust import Dataset, Encoder, ImageClassifier, load_dataset, model_card, register_model

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 16, 16), dtype=np.uint8)


@pytest.fixture
def grey_file(tmp_path: Path) -> str:
    """Grey images in three classes."""
    file = tmp_path / "shades.npz"
    np.savez(file, test_images=GREY, test_labels=np.arange(6) % 3, val_images=GREY[:3], val_labels=np.arange(3))
    return str(file)


def classifier(channels: int) -> ImageClassifier:
    torch.manual_seed(0)
    scale = [0.5] * channels
    return ImageClassifier(Encoder(width=1, latent_dim=2, mean=scale, std=scale), nn.Linear(2, 3))


@pytest.fixture
def shades(grey_file: str) -> str:
    """The name of a model of grey images."""
    register_model("shades", classifier(1), dataset=load_dataset(grey_file))
    return "shades"


def test_a_model_is_attacked_on_its_own_file_by_default(run, shades, grey_file):
    assert model_card(shades).dataset.source == grey_file
    finished = run("attack", shades, "--eps", "2/255")
    assert finished.returncode == 0, finished.stderr
    assert "6 test images" in " ".join((finished.stdout + finished.stderr).split()) or "6" in finished.stdout
    assert "trained on" not in finished.stdout


def test_a_split_by_its_name(run, shades, grey_file):
    finished = run("attack", shades, "--eps", "2/255", "--dataset", grey_file, "--split", "val")
    assert finished.returncode == 0, finished.stderr
    assert "trained on other images of shades" in " ".join(finished.stdout.split())
    finished = run("attack", shades, "--split", "dev")
    assert finished.returncode == 2
    assert "has no dev_images" in finished.stderr


@pytest.fixture
def halves(tmp_path: Path) -> str:
    """The path of a file of training and test images."""
    file = tmp_path / "halves.npz"
    parts = {"train_images": GREY, "train_labels": np.arange(6) % 3, "val_images": GREY[:4] // 2}
    np.savez(file, test_images=GREY[:3] // 3, test_labels=np.arange(3), val_labels=np.arange(4) % 3, **parts)
    register_model("whole", classifier(1), dataset=load_dataset(str(file)))
    return str(file)


@pytest.mark.parametrize("by", ["split", "option"])
def test_the_training_images_are_not_called_test_images_or_other_images(run, halves, by):
    chosen = ("--split", "train") if by == "split" else ("--dataset", f"{halves}:test=train,train=none")
    finished = run("attack", "whole", *chosen, "--eps", "2/255", "--store", "--json", "out.json")
    assert finished.returncode == 0, finished.stderr
    said = " ".join(finished.stdout.split())
    assert "n = 6 training images of halves;" in said
    assert "test images" not in said
    assert "other images" not in said
    assert "trained on these images" in said
    assert json.loads(Path("out.json").read_text())["dataset"]["split"] == "train"
    assert "training images of halves" in " ".join(run("show", "whole").stdout.split())
    audited = run("audit", "whole", *chosen, "--eps", "2/255", "--quick", "--surrogate", "none")
    assert "n = 6 training images of halves" in " ".join(audited.stdout.split())
    run("entropy", "whole", *chosen, "--num-neighbors", "1", "--json", "entropy.json")
    assert json.loads(Path("entropy.json").read_text())["dataset"]["split"] == "train"


def test_the_same_images_under_another_name_are_those_of_the_training(run, halves):
    renamed = Path(halves).with_name("copy.npz")
    renamed.write_bytes(Path(halves).read_bytes())
    finished = run("attack", "whole", "--dataset", str(renamed), "--eps", "2/255")
    said = " ".join(finished.stdout.split())
    assert "n = 3 test images of copy;" in said, finished.stderr
    assert "trained on" not in said


def test_the_test_images_alone_are_not_called_other_images(run, halves):
    said = run("attack", "whole", "--dataset", f"{halves}:train=none", "--eps", "2/255").stdout
    assert "trained on images of halves" in " ".join(said.split())


def test_the_accuracy_after_a_training_names_the_scored_split(run, halves):
    options = ("--objective", "cross_entropy", "--width", "1", "--epochs", "1", "--batch-size", "3")
    finished = run("train", "--dataset", f"{halves}:test=val", *options, "--name", "small")
    assert "clean accuracy on 4 images of split val of halves" in " ".join(finished.stdout.split()), finished.stderr


def test_images_of_another_split_are_named_and_the_test_images_are_told_as_ever(run, halves):
    val = " ".join(run("attack", "whole", "--split", "val", "--eps", "2/255").stdout.split())
    assert "n = 4 images of split val of halves;" in val
    assert "trained on other images of halves" in val
    test = " ".join(run("attack", "whole", "--split", "test", "--eps", "2/255").stdout.split())
    assert "n = 3 test images of halves;" in test
    assert "trained on" not in test


def test_a_copy_of_the_training_images_is_not_called_other_images(run, halves, tmp_path):
    folder = tmp_path / "moved"
    folder.mkdir()
    copy = shutil.copy(halves, folder)
    said = " ".join(run("attack", "whole", "--dataset", copy, "--split", "train", "--eps", "2/255").stdout.split())
    assert "trained on images of halves" in said


def test_grey_images_on_a_model_of_colours_name_the_option(run, grey_file):
    register_model("colours", classifier(3), dataset=load_dataset(f"{grey_file}:channels=3"))
    finished = run("attack", "colours", "--dataset", grey_file)
    assert finished.returncode == 2
    assert "3 channels, and those of shades.npz are 16x16 pixels in 1 channel" in finished.stderr
    assert f"give --dataset {grey_file}:channels=3" in finished.stderr
    finished = run("attack", "colours", "--dataset", f"{grey_file}:channels=3", "--eps", "2/255")
    assert finished.returncode == 0, finished.stderr


def test_images_in_memory_must_be_named_again(run, grey_file):
    register_model("loose", classifier(1), dataset=Dataset.of((GREY, [0, 1, 2, 0, 1, 2]), name="loose images"))
    finished = run("attack", "loose")
    assert finished.returncode == 2
    assert "--dataset" in finished.stderr
    assert run("attack", "loose", "--dataset", grey_file, "--eps", "0").returncode == 0


def test_the_path_on_this_machine_is_not_exported(run, shades, tmp_path):
    assert run("export", shades, str(tmp_path / "given")).returncode == 0
    assert str(tmp_path) not in (tmp_path / "given" / "shades.yaml").read_text()


def test_a_folder_without_test_images(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "pets" / "train" / name / "0.png")
    finished = run("attack", "--dataset", str(tmp_path / "pets"))
    assert finished.returncode == 2
    assert "has no folder of test images" in finished.stderr
    assert finished.stderr.count("\n") == 1
    finished = run("train", "--dataset", f"{tmp_path / 'pets'}:test=train,train=dev")
    assert finished.returncode == 2
    assert "has no folder 'dev'" in finished.stderr


GREY_NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
"""


def test_a_grey_model_is_added_and_attacked_on_a_folder_of_grey_images(run, tmp_path, monkeypatch):
    for index in range(6):
        folder = tmp_path / "shades" / "test" / "abc"[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREY[index]).save(folder / f"{index}.png")
    Path("grey_net.py").write_text(GREY_NET)
    monkeypatch.delitem(sys.modules, "grey_net", raising=False)
    finished = run("add", "grey_net:build", "--name", "net", "--dataset", str(tmp_path / "shades"))
    assert finished.returncode == 0, finished.stderr
    card = model_card("net")
    assert card.architecture.channels == 1
    assert card.dataset.source == f"{tmp_path / 'shades'}:channels=1"
    # By default, and if the folder is named, whose images are read in three channels.
    for data in ((), ("--dataset", str(tmp_path / "shades"))):
        finished = run("attack", "net", "--eps", "2/255", *data)
        assert finished.returncode == 0, finished.stderr
        assert "trained on" not in finished.stdout


def test_a_file_without_class_names_is_told_to_name_them(run):
    images = RANDOM.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    np.savez("plain.npz", images=images, labels=np.arange(10))
    finished = run("attack", "cross_entropy-w16-s0", "--dataset", "plain.npz")
    assert finished.returncode == 2
    assert "name the classes of these images, which have numbers only" in " ".join(finished.stderr.split())
    np.savez("named.npz", images=images, labels=np.arange(10), class_names=CIFAR10)
    finished = run("attack", "cross_entropy-w16-s0", "--dataset", "named.npz", "--eps", "8/255")
    assert finished.returncode == 0, finished.stderr


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RGB = RANDOM.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(6) % 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": RGB}, "has no test_images: it holds pictures"),
        ({"images": RGB}, "no labels: add them"),
        ({"images": RGB / 1.0, "labels": LABELS}, "divide them by 255"),
        ({"images": RGB, "labels": LABELS + 1}, "classes are counted from 0"),
        ({"images": np.concatenate([RGB, RGB], axis=3)[..., :4], "labels": LABELS}, "transparency"),
        ({"images": RGB.astype(np.uint16), "labels": LABELS}, "have 16 bits"),
        ({"images": RGB[:0], "labels": LABELS[:0]}, "There are no"),
        ({"images": RGB, "labels": np.array(["a"] * 6, dtype=object)}, "Python objects are not unpickled"),
    ],
)
def test_a_file_with_something_wrong_is_one_sentence(run, arrays, message):
    np.savez("wrong.npz", **arrays)
    for command in (("attack",), ("audit", "cross_entropy-w16-s0"), ("train", "--epochs", "1", "--name", "x")):
        finished = run(*command, "--dataset", "wrong.npz")
        assert finished.returncode == 2
        assert message in " ".join(finished.stderr.split())
        assert len([line for line in finished.stderr.splitlines() if "Error:" in line]) == 1
        assert "Traceback" not in finished.stderr
        assert finished.stdout == ""
