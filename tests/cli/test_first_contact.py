"""The first commands of a user who has the shipped models, CIFAR-10 or no images, and perhaps no network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ibrobust import data as data_module
from ibrobust.cli.matching import models_for, training_note
from ibrobust.data import Dataset, Split
from ibrobust.errors import IbrobustError
from ibrobust.registry import model_card
from ibrobust.registry.card import read_card

ZOO = Path(__file__).parents[2] / "model_zoo"
SHIPPED = "cross_entropy-w16-s0"
JPEG = "trained on CIFAR-10 re-encoded as JPEG"


def images(name: str, *, size: int = 32, classes: tuple[str, ...] | None = None) -> Dataset:
    """Return a small data set with the classes of CIFAR-10."""
    names = classes if classes is not None else read_card(ZOO / f"{SHIPPED}.yaml").dataset.class_names
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, size, size), generator=random, dtype=torch.uint8)
    split = Split(pixels, torch.arange(20) % len(names))
    return Dataset(name, names, split, split)


@pytest.fixture
def cifar10(monkeypatch) -> Dataset:
    """Let a small data set be found as CIFAR-10, and as its JPEG files."""
    for name, reader in (("cifar10", "load_torchvision"), ("cifar10-jpeg", "load_cifar10_jpeg")):
        small = images(name)
        monkeypatch.setattr(f"ibrobust.data.load.{reader}", lambda *_, found=small, **__: found)
    return data_module.load_dataset("cifar10")


@pytest.fixture
def two_models(monkeypatch, tmp_path):
    """Ship two models only: attacking all takes long."""
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    for name in (SHIPPED, "soft_ib-w16-s0"):
        shutil.copy(ZOO / f"{name}.yaml", zoo)
        (weights,) = ZOO.glob(f"{name}-*.safetensors")
        shutil.copy(weights, zoo)
    for module in ("store", "catalog"):
        monkeypatch.setattr(f"ibrobust.registry.{module}.zoo_dir", lambda: zoo)
    return (SHIPPED, "soft_ib-w16-s0")


def test_a_model_named_twice_is_attacked_once(run, cifar10, two_models, tmp_path):
    finished = run("attack", SHIPPED, SHIPPED, "--eps", "0.01", "--json", "results.json")
    assert finished.returncode == 0, finished.stderr
    sweeps = json.loads((tmp_path / "elsewhere" / "results.json").read_text())["sweeps"]
    assert [sweep["model"] for sweep in sweeps] == [SHIPPED]


def test_without_a_model_all_are_attacked_on_the_images_of_the_shipped_models(run, cifar10, two_models):
    finished = run("attack", "--eps", "0.01")
    assert finished.returncode == 0, finished.stderr
    assert "n = 20 test images of cifar10-jpeg;" in " ".join(finished.stdout.split())


def test_cifar10_is_attacked_with_every_shipped_model(run, cifar10, two_models, tmp_path):
    finished = run("attack", "--dataset", "cifar10", "--eps", "0.01,0.03", "--json", "results.json")
    assert finished.returncode == 0, finished.stderr
    sweeps = json.loads((tmp_path / "elsewhere" / "results.json").read_text())["sweeps"]
    assert {sweep["model"] for sweep in sweeps} == set(two_models)
    assert (
        f"n = 20 test images of cifar10; 95% intervals within ±21.9 points; * best of its column; {JPEG}"
        in " ".join(finished.stdout.split())
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("attack", SHIPPED, "--eps", "8/255"),
        ("attack", SHIPPED, "--eps", "8/255", "--dataset", "cifar10", "--attack", "PGD:steps=1"),
    ],
)
def test_a_shipped_model_is_evaluated_on_the_images_that_its_card_names(run, cifar10, two_models, arguments):
    finished = run(*arguments)
    assert finished.returncode == 0, finished.stderr
    where = "cifar10" if "cifar10" in arguments else "cifar10-jpeg"
    assert f"test images of {where};" in " ".join(finished.stdout.split())


def test_a_shipped_model_is_benchmarked_on_the_images_of_its_training_and_no_others(run, cifar10, two_models, tmp_path):
    arguments = ("benchmark", SHIPPED, "--n-examples", "2")
    finished = run(*arguments)
    assert finished.returncode == 2
    assert f"The images of 'cifar10-jpeg' are not those that '{SHIPPED}' was trained on" in finished.stderr
    path = tmp_path / "zoo" / f"{SHIPPED}.yaml"
    fingerprint = read_card(path).dataset.fingerprint
    path.write_text(path.read_text().replace(fingerprint, images("cifar10-jpeg").fingerprint))
    finished = run(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert "test images of cifar10-jpeg;" in " ".join(finished.stdout.split())


def test_an_audit_of_a_shipped_model_has_images_and_a_surrogate(run, cifar10, two_models, monkeypatch):
    def begin(model, images, labels, *, surrogate_name, **_: object) -> None:
        raise IbrobustError(f"{len(images)} images, transfer from {surrogate_name}")

    monkeypatch.setattr("ibrobust.cli.attacking.audit", begin)
    assert run("audit", "soft_ib-w16-s0").stderr == f"Error: 20 images, transfer from {SHIPPED}\n"


def test_models_go_with_cifar10_by_classes_and_size(cifar10):
    shipped = models_for(cifar10)
    assert SHIPPED in shipped
    assert set(shipped) == set(models_for(images("cifar10-jpeg")))
    assert models_for(images("cifar10", size=16)) == []
    assert models_for(images("cifar10", classes=tuple("0123456789"))) == []
    assert models_for(images("my photographs")) == []


def test_the_note_names_the_models_where_not_all_were_trained_elsewhere():
    assert training_note([("a", None)]) == ""
    assert training_note([("a", "X"), ("a", "X"), ("b", "X")]) == "trained on X"
    assert training_note([("a", "X"), ("b", None)]) == "a trained on X"
    assert training_note([("a", "X"), ("b", "Y"), ("c", "X")]) == "a, c trained on X; b trained on Y"


@pytest.mark.parametrize("dataset", ["cifar10", "cifar10-jpeg"])
def test_without_a_network_the_sentence_names_what_works(run, monkeypatch, dataset):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    finished = run("attack", "--dataset", dataset)
    assert finished.returncode == 2
    assert "could not be downloaded" in finished.stderr
    assert "--dataset digits" in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_folder_with_the_name_of_a_data_set_that_cannot_be_downloaded_is_named(run, monkeypatch, tmp_path):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    (tmp_path / "elsewhere" / "cifar10-jpeg").mkdir()
    finished = run("attack", "--dataset", "cifar10-jpeg")
    assert "Error: A folder 'cifar10-jpeg' is here: write ./cifar10-jpeg to use it." in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("attack", "cross_entropy-w16"), "did you mean cross_entropy-w16-s"),
        (("attack", SHIPPED, "--decoder", "haed"), "no decoder 'haed': choose from head"),
        (("attack", "--decoder", "haed"), "Unknown decoder 'haed': did you mean head"),
        (("attack", "my:model", "--decoder", "head"), "has no choice of decoders"),
        (("attack", "--attack", "PDG"), "Unknown attack 'PDG'"),
        (("attack", "--attack", "PGD:step=3"), "no option 'step'"),
        (("attack", "--device", "cuda:7"), "device 'cuda:7' is not available"),
        (("attack", "--device", "gpu"), "device 'gpu' is not available: did you mean cuda? Use cpu"),
        (("attack", "--attack", "PGD", "--seed", "-1"), "seed"),
        (("attack", "--eps", "0.1,0.10"), "An epsilon occurs twice in 0.1,0.10"),
        (("attack", "--eps", "0,03"), "did you mean 0.03? A comma separates epsilons."),
        (("audit", SHIPPED, "--decoder", "haed"), "no decoder 'haed'"),
        (("benchmark", "my:model", "--decoder", "head"), "has no choice of decoders: leave --decoder out"),
        (("benchmark", "no", "--threat-model", "L2", "--eps", "1.5"), "Unknown model 'no'"),
        (("audit", SHIPPED, "--surrogate", "cross"), "Unknown model 'cross'"),
        (("audit", SHIPPED, "--device", "cuda:7"), "device 'cuda:7' is not available"),
        (("entropy", "my:model"), "'my:model' is not a stored model, so its latents are unknown"),
        (("entropy", SHIPPED, "--device", "cuda:7"), "device 'cuda:7' is not available"),
        (("train", "--objective", "crossentropy"), "Unknown objective 'crossentropy': did you mean cross_entropy"),
        (("train", "--decoder", "logistik"), "logistik"),
        (("train", "--preset", "papre"), "Unknown preset 'papre'"),
    ],
)
def test_what_is_not_there_is_told_before_data_is_read(run, monkeypatch, arguments, said):
    def read(*_: object, **__: object) -> None:
        raise AssertionError("data is read")

    monkeypatch.setattr("ibrobust.cli.attacking.load_dataset", read)
    monkeypatch.setattr("ibrobust.registry.train_model.load_dataset", read)
    finished = run(*arguments)
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("Error: ")
    assert said in finished.stderr
    assert finished.stdout == ""


def test_the_cards_of_the_zoo_name_a_known_data_set():
    from ibrobust.data.names import NAMED_DATASETS

    for path in ZOO.glob("*.yaml"):
        assert model_card(path.stem).recipe.dataset in NAMED_DATASETS
