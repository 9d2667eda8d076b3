"""`--resize`: models of another input size, measured at the resolution of the images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ibrobust import load_dataset, load_model, model_card, register_model, resized

BUILD = """
from torch import nn
import torch

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 20, 2))
"""


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Ten images of 8x8 pixels in two classes."""
    file = tmp_path / "small.npz"
    random = np.random.default_rng(0)
    np.savez(file, images=random.integers(0, 256, (10, 3, 8, 8), dtype=np.uint8), labels=np.arange(10) % 2)
    return str(file)


@pytest.fixture
def built(run, monkeypatch) -> str:
    """A reference to a model of images of 20x20 pixels."""
    Path("large_net.py").write_text(BUILD)
    monkeypatch.delitem(sys.modules, "large_net", raising=False)
    return "large_net:build"


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_model_of_another_size_is_attacked_and_audited_with_a_word(run, built, images):
    data = ("--dataset", images)
    finished = run("attack", built, *data, "--eps", "4/255")
    assert finished.returncode == 2
    assert "does not take images of shape (3, 8, 8)" in finished.stderr
    finished = run("attack", built, *data, "--eps", "4/255", "--resize", "20", "--json", "out.json")
    assert finished.returncode == 0, finished.stderr
    assert "scaled to 20x20 inside the model" in words(finished.stdout)
    assert json.loads(Path("out.json").read_text())["dataset"]["resized_to"] == 20


def test_saved_images_are_verified_at_their_own_size(run, built, images):
    saved = ("--attack", "PGD:steps=2", "--save-images", "found.safetensors", "--resize", "20")
    assert run("attack", built, "--dataset", images, "--eps", "8/255", *saved).returncode == 0
    finished = run("verify", "found.safetensors", built, "--resize", "20")
    assert finished.returncode == 0, finished.stderr
    assert ": confirmed" in finished.stdout
    recorded = run("verify", "found.safetensors", built)
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    assert ": confirmed" in recorded.stdout


def test_a_stored_model_names_the_option_and_keeps_no_result_of_it(run, built, images, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    import large_net

    large = np.random.default_rng(0).integers(0, 256, (4, 3, 20, 20), dtype=np.uint8)
    np.savez(tmp_path / "large.npz", images=large, labels=[0, 1, 0, 1])
    register_model("net", large_net.build(), dataset=load_dataset(str(tmp_path / "large.npz")), factory=built)
    finished = run("attack", "net", "--dataset", images, "--eps", "4/255")
    assert finished.returncode == 2
    assert "takes images of 20x20 pixels in 3 channels, and those of small.npz are 8x8" in finished.stderr
    assert "--resize 20" in finished.stderr
    finished = run("attack", "net", "--dataset", images, "--eps", "4/255", "--resize", "20", "--store")
    assert finished.returncode == 0, finished.stderr
    assert "not put into its card" in words(finished.stderr)
    finished = run("audit", "net", "--dataset", images, "--eps", "4/255", "--resize", "20", "--quick")
    assert finished.returncode == 0, finished.stderr
    assert "scaled to 20x20 inside the model" in words(finished.stdout)
    assert model_card("net").evaluations == {}


def test_another_size_than_that_of_the_saved_images_is_named(run, mine):
    saved = ("--attack", "FGSM", "--n-examples", "20", "--save-images", "found.safetensors", "--resize", "16")
    assert run("attack", mine, "--eps", "8/255", *saved).returncode == 0
    assert ": confirmed" in run("verify", "found.safetensors", mine).stdout
    other = run("verify", "found.safetensors", mine, "--resize", "24")
    assert other.returncode == 0, other.stderr
    assert "made for mine (head) with --resize 16, so this is a test of transfer: mine (head) with" in other.stdout


def test_a_wrong_resize_names_the_size_that_the_model_takes(run, built, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    import large_net

    large = np.random.default_rng(0).integers(0, 256, (4, 3, 20, 20), dtype=np.uint8)
    np.savez(tmp_path / "large.npz", images=large, labels=[0, 1, 0, 1])
    register_model("net", large_net.build(), dataset=load_dataset(str(tmp_path / "large.npz")), factory=built)
    finished = run("attack", "net", "--resize", "24")
    assert finished.returncode == 2
    said = "takes 20x20 pixels, and --resize 24 would give it 24x24: leave out --resize, or give --resize 20."
    assert said in finished.stderr


def test_a_scaled_model_can_be_stored(built, images, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    import large_net

    model = resized(large_net.build(), 20)
    card = register_model("net", model, dataset=load_dataset(images), factory=built)
    assert (card.architecture.image_size, card.architecture.resized_to) == ((8, 8), (20, 20))
    points = torch.rand(3, 3, 8, 8)
    assert torch.equal(load_model("net")(points), model(points))


def test_latents_of_scaled_images(run, mine):
    finished = run("entropy", mine, "--dataset", "digits", "--resize", "16")
    assert finished.returncode == 0, finished.stderr
    assert "scaled to 16x16 inside the model" in words(finished.stdout)
    assert isinstance(load_model(mine).decoder, nn.Linear)
