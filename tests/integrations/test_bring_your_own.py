"""What works with what: kinds of models, of data and of attacks, as docs/own-model.md says.

Every model of the table is stored, loaded and attacked on every kind of images by every kind of attack.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ibrobust import (
    Dataset,
    Encoder,
    ImageClassifier,
    load_dataset,
    load_model,
    logits_of,
    normalized,
    register_model,
    resized,
    run_attacks,
    two_logits,
)
from ibrobust.data import torchvision_sets
from ibrobust.integrations.external_models import load_reference
from ibrobust.integrations.robustbench.environment import imported_quietly

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
LABELS = np.arange(8) % 4
CLASSES = ("ant", "bee", "cow", "dog")


def folder(tmp_path: Path) -> Dataset:
    for index, (pixels, label) in enumerate(zip(RGB, LABELS, strict=True)):
        place = tmp_path / "farm" / "test" / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(place / f"{index}.png")
    return load_dataset(str(tmp_path / "farm"))


def npz_file(tmp_path: Path) -> Dataset:
    np.savez(tmp_path / "farm.npz", images=RGB[:, 0], labels=LABELS)  # grey
    return load_dataset(str(tmp_path / "farm.npz"))


def safetensors_file(tmp_path: Path) -> Dataset:
    tensors = {"images": torch.from_numpy(RGB), "labels": torch.from_numpy(LABELS)}
    save_file(tensors, tmp_path / "farm.safetensors", metadata={"class_names": json.dumps(CLASSES)})
    return load_dataset(str(tmp_path / "farm.safetensors"))


def torchvision_files(tmp_path: Path) -> Dataset:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for half in ("train", "t10k"):
        (raw / f"{half}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 8, 32, 32) + RGB[:, 0].tobytes())
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 8) + bytes(LABELS.tolist()))
    with patch.dict(torchvision_sets._COUNTS, MNIST={"True": 8, "False": 8}):
        return load_dataset("mnist", data_dir=tmp_path)


def in_memory(tmp_path: Path) -> Dataset:
    return Dataset.of((RGB / 255, LABELS), class_names=CLASSES, name="farm")


def loader(tmp_path: Path) -> Dataset:
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(RGB) / 255, torch.from_numpy(LABELS))
    return Dataset.of(torch.utils.data.DataLoader(pairs, batch_size=3), name="farm")


DATA = (folder, npz_file, safetensors_file, torchvision_files, in_memory, loader)


class Net(nn.Sequential):
    def __init__(self, channels: int, classes: int, size: int = 32) -> None:
        super().__init__(nn.AvgPool2d(size // 4), nn.Flatten(), nn.Linear(channels * 16, classes))


class Wrapping(Net):
    def forward(self, images):
        return SimpleNamespace(logits=super().forward(images))


@pytest.fixture(autouse=True)
def nets(monkeypatch):
    """A module that can be imported, with the factories."""
    module = ModuleType("farm_nets")
    vars(module).update(Net=Net, Wrapping=Wrapping, four=lambda: Net(3, 4).eval(), ten=lambda: Net(3, 10).eval())
    monkeypatch.setitem(sys.modules, "farm_nets", module)


def own_encoder(data: Dataset) -> nn.Module:
    scale = [0.5] * data.test.images.shape[1]
    model = ImageClassifier(Encoder(width=1, latent_dim=4, mean=scale, std=scale), nn.Linear(4, data.num_classes))
    return stored(model, data)


def module_function(data: Dataset) -> nn.Module:
    arguments = {"channels": data.test.images.shape[1], "classes": data.num_classes}
    scale = [0.5] * arguments["channels"]
    return stored(normalized(Net(**arguments), scale, scale), data, factory="farm_nets:Net", arguments=arguments)


def output_with_logits(data: Dataset) -> nn.Module:
    arguments = {"channels": data.test.images.shape[1], "classes": data.num_classes}
    return stored(logits_of(Wrapping(**arguments)), data, factory="farm_nets:Wrapping", arguments=arguments)


def another_size(data: Dataset) -> nn.Module:
    arguments = {"channels": data.test.images.shape[1], "classes": data.num_classes, "size": 48}
    return stored(resized(Net(**arguments), 48), data, factory="farm_nets:Net", arguments=arguments)


def of_timm(data: Dataset) -> nn.Module:
    with imported_quietly():
        import timm

    arguments = {"num_classes": data.num_classes, "in_chans": data.test.images.shape[1]}
    model = timm.create_model("test_byobnet", **arguments).eval()
    return stored(model, data, factory="timm:test_byobnet", arguments=arguments)


def of_torchvision(data: Dataset) -> nn.Module:
    from torchvision import models

    arguments = {"num_classes": data.num_classes}
    model = models.shufflenet_v2_x0_5(**arguments).eval()
    return stored(model, data, factory="torchvision:shufflenet_v2_x0_5", arguments=arguments)


def by_reference(data: Dataset) -> nn.Module:
    name = {4: "four", 10: "ten"}[data.num_classes]
    return load_reference(f"farm_nets:{name}", image_size=(32, 32), num_classes=data.num_classes)


def stored(model: nn.Module, data: Dataset, **how: object) -> nn.Module:
    """Return the model as the registry gives it back."""
    register_model("net", model.eval(), dataset=data, **how)
    return load_model("net")


MODELS = (own_encoder, module_function, output_with_logits, another_size, of_timm, of_torchvision, by_reference)
COLOUR_ONLY = (of_torchvision, by_reference)


def own_attack(model, images, labels, *, epsilon, seed):
    return (images + epsilon).clamp(0, 1)


ATTACKS = ("FGSM", "PGD:steps=2", "MIFGSM:steps=2", "foolbox:LinfPGD:steps=2", own_attack)


@pytest.mark.parametrize("source", DATA, ids=lambda source: source.__name__)
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_every_model_on_all_images_under_every_attack(
    tmp_path: Path, kind: Callable[[Dataset], nn.Module], source: Callable[[Path], Dataset]
):
    torch.manual_seed(0)
    data = source(tmp_path)
    if kind in COLOUR_ONLY:
        data = data.in_channels(3)
    model = kind(data)
    results = run_attacks(model, data.test.images, data.test.labels, attacks=list(ATTACKS), epsilons="8/255")
    assert len(results) == len(ATTACKS)
    for result in results:
        assert result.total == 8
        assert 0 <= result.robust_accuracy <= result.clean_accuracy
    # The attacks reached the model: its logits move with the images.
    images = data.test.images / 255
    with torch.no_grad():
        assert not torch.equal(model(images), model((images + 8 / 255).clamp(0, 1)))


def test_a_single_logit_for_two_classes():
    torch.manual_seed(0)
    data = Dataset.of((RGB, LABELS % 2), name="two")
    model = stored(two_logits(Net(3, 1)), data, factory="farm_nets:Net", arguments={"channels": 3, "classes": 1})
    results = run_attacks(model, data.test.images, data.test.labels, attacks=list(ATTACKS), epsilons="8/255")
    assert len(results) == len(ATTACKS)
