"""Outside models by reference, without any network."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ibrobust.integrations.robustbench.run_benchmark as rb
from ibrobust.errors import IbrobustError
from ibrobust.integrations.external_models import UnitRangeInput, load_reference, robustbench_models_dir
from ibrobust.integrations.references import is_reference
from ibrobust.integrations.robustbench.environment import imported_quietly

with imported_quietly():
    import robustbench.utils
    import timm
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

SMALL_ZOO_MODEL = "Wong2020Fast"


@pytest.fixture
def my_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a module of models, which no installed command has on its path."""
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "def network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).train()\n"
        "def number():\n    return 3\n"
        "def broken():\n    raise RuntimeError('no weights today')\n"
        "def demanding(path):\n    return nn.Identity()\n"
        "def images():\n    return nn.Identity()\n"
        "class ChannelsLast(nn.Module):\n    def forward(self, images):\n"
        "        return network()(images.permute(0, 3, 1, 2) if images.shape[3] == 3 else [images] + images)\n"
        "def channels_last():\n    return ChannelsLast()\n"
        "def empty():\n    return nn.Linear(3072, 10, device='meta')\n"
        "def half():\n    return network().half()\n"
        "class Pair(nn.Module):\n    def forward(self, images):\n        return images, images\n"
        "def pair():\n    return Pair()\n"
    )
    (tmp_path / "failing_models.py").write_text("1 / 0\n")
    (tmp_path / "needy_models.py").write_text("import a_module_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_references_are_told_from_names() -> None:
    assert is_reference("robustbench:Standard")
    assert not is_reference("knn_ib_beta0.03-w16")


def test_a_function_may_import_from_the_current_folder_when_it_is_called(my_models: Path) -> None:
    (my_models / "late_models.py").write_text("def net():\n    import late_layers\n    return late_layers.layers()\n")
    (my_models / "late_layers.py").write_text(
        "from torch import nn\ndef layers():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
    )
    load_reference("late_models:net", image_size=(32, 32), num_classes=10)


def test_a_function_of_the_current_folder(my_models: Path) -> None:
    model = load_reference("my_models:network", image_size=(32, 32), num_classes=10)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert not model.training


@pytest.fixture
def no_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules as in a new process, where nothing stands in for RobustBench's missing autoattack yet."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "autoattack"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_module_that_imports_robustbench_finds_what_it_needs(my_models: Path, no_stand_ins: None) -> None:
    (my_models / "zoo_models.py").write_text("import autoattack.state\nfrom my_models import network\n")
    load_reference("zoo_models:network")


def test_an_autoattack_of_the_current_folder_is_not_hidden(
    my_models: Path, no_stand_ins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "autoattack", None)  # forgotten after the test
    monkeypatch.delitem(sys.modules, "autoattack")
    (my_models / "autoattack.py").write_text("mine = True\n")
    (my_models / "mine_models.py").write_text("from autoattack import mine\nfrom my_models import network\n")
    load_reference("mine_models:network")


def test_a_model_in_half_precision_gets_images_of_its_precision(my_models: Path) -> None:
    model = load_reference("my_models:half", image_size=(32, 32), num_classes=10)
    assert model(torch.rand(2, 3, 32, 32).half()).dtype == torch.half


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("my_models:", "not of the form"),
        (":network", "not of the form"),
        ("my_models:nothing", "'my_models' has no 'nothing'"),
        ("absent_models:network", "needs the Python module 'absent_models'"),
        ("needy_models:network", "needs the Python module 'a_module_nobody_has'"),
        ("failing_models:network", "fails on import: ZeroDivisionError"),
        ("my_models:number", "returns an int"),
        ("my_models.py:network", r"names a file, but a module is needed: write my_models:network\.$"),
        ("my_models:empty", "on torch's meta device, which holds no weights: load its weights first"),
        ("my_models:broken", "RuntimeError: no weights today"),
        ("my_models:demanding", "fails when it is called without arguments"),
        ("timm:resnet-18", "timm has no model 'resnet-18': did you mean resnet18"),
        ("robustbench:Standart", "RobustBench has no model 'Standart': did you mean Standard"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_sentence(my_models: Path, reference: str, message: str) -> None:
    with pytest.raises(IbrobustError, match=message) as caught:
        load_reference(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "said"), [("nets/mine.py", "write nets.mine:f"), ("/x/y.py", "to '/x' and write y:f")]
)
def test_a_file_in_the_place_of_a_module_is_answered_with_the_module(my_models: Path, file: str, said: str) -> None:
    with pytest.raises(IbrobustError, match=f"names a file.*{said}"):
        load_reference(f"{file}:f")


@pytest.mark.parametrize(
    ("reference", "size", "classes", "message"),
    [
        (
            "my_models:network",
            (32, 32),
            100,
            r"gives \(2, 10\) for 2 images, but logits of shape \(2, 100\)",
        ),
        ("my_models:network", (28, 28), 10, r"does not take images of shape \(3, 28, 28\)"),
        ("my_models:channels_last", (32, 32), 10, r"it takes \(H, W, C\): .*images.permute\(0, 2, 3, 1\)\.$"),
        ("my_models:images", (32, 32), None, r"'my_models:images': .* of shape \(2, 3, 32, 32\) for 2"),
        ("my_models:pair", (32, 32), 10, "type tuple for 2 images: .* whose forward pass returns the logits alone"),
    ],
)
def test_a_model_that_does_not_fit_the_images_is_refused(
    my_models: Path, reference: str, size: tuple[int, int], classes: int | None, message: str
) -> None:
    with pytest.raises(IbrobustError, match=message):
        load_reference(reference, image_size=size, num_classes=classes)


def test_a_device_that_is_not_there_is_refused(my_models: Path) -> None:
    with pytest.raises(IbrobustError, match="'cuda:77' is not available"):
        load_reference("my_models:network", device="cuda:77")


class Mean(nn.Module):
    """Images (B, 3, 8, 8) -> their channel means (B, 3), which shows what the model got."""

    pretrained_cfg: dict[str, Any] = {  # noqa: RUF012
        "mean": (0.1, 0.2, 0.3),
        "std": (0.5, 0.25, 0.2),
        "input_size": (3, 8, 8),
    }

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def test_a_timm_model_takes_images_in_the_unit_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Mean())
    model = load_reference("timm:resnet18", image_size=(8, 8), num_classes=3)
    colour = torch.tensor([0.6, 0.7, 0.9])
    got = model(colour.view(1, 3, 1, 1).expand(1, 3, 8, 8))
    torch.testing.assert_close(got, torch.tensor([[1.0, 2.0, 3.0]]))
    with pytest.raises(IbrobustError, match="timm:resnet18 was trained on 8x8 images but got 32x32"):
        load_reference("timm:resnet18", image_size=(32, 32))


def test_a_real_timm_architecture_gets_timms_own_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model("test_vit", pretrained=False).eval()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: network)
    model = load_reference("timm:test_vit")
    assert isinstance(model, UnitRangeInput)
    images = torch.rand(2, 3, *model.image_size)
    with imported_quietly():
        from timm.data import resolve_data_config
    config = resolve_data_config({}, model=network)
    assert tuple(config["input_size"][1:]) == model.image_size
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    assert torch.equal(model(images), network((images - mean) / std))


def test_timm_weights_that_are_not_there_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, pretrained: bool) -> None:
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(IbrobustError, match=r"could not be downloaded \(ConnectionError: no route to host\)"):
        load_reference("timm:resnet18")


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(gdrive_id: str, file: Path) -> None:
        Path(file).write_bytes(b"half a fi")
        raise ConnectionError("no route to host")

    monkeypatch.setattr(robustbench.utils, "download_gdrive_new", offline)


def test_a_zoo_model_whose_weights_are_there(no_download: None, home: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        network = model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf][SMALL_ZOO_MODEL]["model"]().eval()
    file = home / "robustbench" / "cifar10" / "Linf" / f"{SMALL_ZOO_MODEL}.pt"
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    loaded = load_reference(f"robustbench:{SMALL_ZOO_MODEL}", image_size=(32, 32), num_classes=10)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(images), network(images))


def test_a_zoo_model_whose_weights_are_not_there(no_download: None, home: Path) -> None:
    for _ in range(2):  # what the broken download left must not be taken for the weights the second time
        with pytest.raises(IbrobustError, match=r"not in .*Wong2020Fast.pt' and could not be downloaded") as caught:
            load_reference(f"robustbench:{SMALL_ZOO_MODEL}")
        assert "\n" not in str(caught.value)
    assert list(home.rglob("*.pt")) == []


def test_damaged_zoo_weights_are_named_and_kept(no_download: None, home: Path) -> None:
    file = home / "robustbench" / "cifar10" / "Linf" / f"{SMALL_ZOO_MODEL}.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(IbrobustError, match=r"Wong2020Fast.pt' cannot be loaded \(UnpicklingError"):
        load_reference(f"robustbench:{SMALL_ZOO_MODEL}")
    assert file.read_bytes() == b"not a checkpoint"


def test_a_download_leaves_the_files_of_other_models(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "robustbench" / "cifar10" / "Linf"
    other = folder / f"{SMALL_ZOO_MODEL}_R18.pt"

    def offline(gdrive_id: str, file: Path) -> None:
        other.write_bytes(b"of another process")
        raise ConnectionError("no route to host")

    monkeypatch.setattr(robustbench.utils, "download_gdrive_new", offline)
    with pytest.raises(IbrobustError, match="could not be downloaded"):
        load_reference(f"robustbench:{SMALL_ZOO_MODEL}")
    assert list(folder.iterdir()) == [other]


def test_the_weights_of_another_model_are_not_named_as_damaged(no_download: None, home: Path) -> None:
    file = home / "robustbench" / "cifar10" / "Linf" / f"{SMALL_ZOO_MODEL}_R18.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of another model")
    with pytest.raises(IbrobustError, match="could not be downloaded"):
        load_reference(f"robustbench:{SMALL_ZOO_MODEL}")


def test_downloaded_weights_with_python_objects_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(gdrive_id: str, file: Path) -> None:
        torch.save({"state_dict": {}, "args": SimpleNamespace(lr=0.1)}, file)

    monkeypatch.setattr(robustbench.utils, "download_gdrive_new", download)
    with pytest.raises(IbrobustError, match=r"Wong2020Fast.pt' hold Python objects, which ibrobust does not unpickle"):
        load_reference(f"robustbench:{SMALL_ZOO_MODEL}")
    assert [file.name for file in home.rglob("*.pt")] == [f"{SMALL_ZOO_MODEL}.pt"]


class Planted:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_zoo_weights_is_not_run(no_download: None, home: Path) -> None:
    file = home / "robustbench" / "cifar10" / "Linf" / f"{SMALL_ZOO_MODEL}.pt"
    file.parent.mkdir(parents=True)
    torch.save({"state_dict": Planted(home / "planted")}, file)
    with pytest.raises(IbrobustError, match="hold Python objects"):
        load_reference(f"robustbench:{SMALL_ZOO_MODEL}")
    assert not (home / "planted").exists()


def test_zoo_names_are_found_in_every_listing() -> None:
    assert rb.find_zoo_model("Standard") == ("cifar10", "Linf", "Standard")
    assert rb.find_zoo_model("cifar10/L2/Standard") == ("cifar10", "L2", "Standard")
    only_imagenet = "Salman2020Do_R18"
    assert rb.find_zoo_model(only_imagenet) == ("imagenet", "Linf", only_imagenet)
    with pytest.raises(IbrobustError, match=r"several models .*choose robustbench:"):
        rb.find_zoo_model("Hendrycks2020AugMix_ResNeXt")


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "imagenet"])
def test_robustbenchs_own_folder_of_weights_is_used_for_every_data_set(
    dataset: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "other").mkdir(parents=True)
    assert robustbench_models_dir() == home / "robustbench"
    (tmp_path / "models" / dataset / "Linf").mkdir(parents=True)
    assert robustbench_models_dir() == Path("models")
