"""Small models and images that every integration is tried on."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from installed import build
from PIL import Image
from torch import Tensor, nn

from ibrobust.data import load_dataset, to_unit_range
from ibrobust.models import Encoder, ImageClassifier, encode_in_batches, fit_logistic
from ibrobust.registry import register_model

CHECKOUT = Path(__file__).parents[2]


class TinyNet(nn.Module):
    """Images (B, 3, 32, 32) in [0, 1] -> logits (B, 10): small, smooth, with an ordinary gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.linear = nn.Linear(8 * 7 * 7, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.conv(images)).flatten(1))


@pytest.fixture(scope="session")
def tiny_model() -> nn.Module:
    """A TinyNet briefly fitted to the digits, in evaluation mode: right nearly always, and not robust."""
    train = load_dataset("digits").train
    images, labels = to_unit_range(train.images), train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyNet()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(3):
            for part in torch.randperm(len(labels)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
                optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="session")
def digits_images() -> tuple[Tensor, Tensor]:
    """32 test images of the digits (32, 3, 32, 32) in [0, 1] and their labels."""
    test = load_dataset("digits").test.subset(32)
    return to_unit_range(test.images), test.labels


@pytest.fixture(scope="session")
def digits_classifier() -> ImageClassifier:
    """A narrow ibrobust model of the digits, made in seconds: a logistic decoder on random features."""
    train = load_dataset("digits").train
    images = to_unit_range(train.images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder(width=4, latent_dim=48)
    with torch.no_grad():
        encoder(images[:500])  # for the statistics of batch normalisation
    latents = encode_in_batches(encoder, iter(images.split(500)))
    return ImageClassifier(encoder, fit_logistic(latents, train.labels, 10)).eval()


@pytest.fixture(autouse=True)
def no_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only the test's own models, so that what is offered to another registry can be told in full."""
    monkeypatch.setattr("ibrobust.registry.store.zoo_dir", lambda: tmp_path / "zoo")


@pytest.fixture
def registered(home: Path, digits_classifier: ImageClassifier) -> str:
    """The name under which that model is registered in the test's own home."""
    register_model("Digits-Net_b0.03", copy.deepcopy(digits_classifier), dataset=load_dataset("digits"))
    return "Digits-Net_b0.03"


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as an image folder: 200 training and 60 test images, losslessly."""
    root = tmp_path_factory.mktemp("digits_folder")
    dataset = load_dataset("digits")
    for name, split in (("train", dataset.train.subset(200)), ("test", dataset.test.subset(60))):
        for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            folder = root / name / dataset.class_names[int(label)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:04d}.png")
    return root


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """ibrobust's (sdist, wheel); the wheel is made from the sdist."""
    sdist, wheel = sorted(build(CHECKOUT, tmp_path_factory.mktemp("dist")), key=lambda file: file.suffix == ".whl")
    return sdist, wheel
