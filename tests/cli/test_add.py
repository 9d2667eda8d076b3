"""`ibrobust add`, and what the other commands do with a model that is not ibrobust's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ibrobust.cli.add import _arguments
from ibrobust.errors import IbrobustError
from ibrobust.integrations.huggingface import load_pretrained, save_pretrained
from ibrobust.registry import load_model, model_card

FACTORY = """
from torch import nn

def build(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, 3))
"""


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)
    ).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-four images of 24x24 pixels in three classes, the brighter the higher the class."""
    root = tmp_path / "three"
    for split, count in (("train", 5), ("test", 3)):
        for label in range(3):
            (root / split / f"c{label}").mkdir(parents=True)
            for index in range(count):
                picture = torch.full((24, 24, 3), 60 * label + index, dtype=torch.uint8).numpy()
                Image.fromarray(picture).save(root / split / f"c{label}" / f"{index}.png")
    return root


@pytest.fixture
def added(run, folder, monkeypatch) -> str:
    """The name of a model that was added from a module in the current folder, with weights in a file."""
    Path("my_net.py").write_text(FACTORY)
    save_file(network(6).state_dict(), "net.safetensors")
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    arguments = ("--name", "net", "--weights", "net.safetensors", "--arg", "width=6", "--dataset", str(folder))
    finished = run("add", "my_net:build", *arguments, "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2")
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"Added net, clean accuracy on three: [\d.]+% of \d+ images with head", finished.stdout)
    return "net"


def test_a_network_and_its_weights_become_a_model(added):
    images = torch.rand(4, 3, 24, 24)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.2] * 3).view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.equal(load_model(added)(images), network(6)((images - mean) / std))


def test_an_argument_with_an_exponent_is_a_number():
    assert _arguments(["p=1e-3", "name=1e-3x"]) == {"p": 0.001, "name": "1e-3x"}
    assert _arguments(["sizes=[1e-3,2e-3]"]) == {"sizes": [0.001, 0.002]}


def test_an_argument_that_is_a_date_that_does_not_exist_is_refused():
    with pytest.raises(IbrobustError, match="--arg day=2001-13-45 has no value that can be read"):
        _arguments(["day=2001-13-45"])


@pytest.mark.filterwarnings("default:The model's outputs are probabilities")
def test_a_model_that_gives_probabilities_is_added_with_a_warning(run, folder, monkeypatch):
    Path("soft_net.py").write_text(FACTORY + "def soft():\n    return nn.Sequential(build(), nn.Softmax(1))\n")
    monkeypatch.delitem(sys.modules, "soft_net", raising=False)
    finished = run("add", "soft_net:soft", "--name", "soft", "--dataset", str(folder))
    assert finished.returncode == 0
    assert "Warning: The model's outputs are probabilities" in finished.stderr


def test_without_weights_it_is_said_whose_they_are(run, added, folder):
    finished = run("add", "my_net:build", "--name", "as-built", "--dataset", str(folder))
    assert finished.returncode == 0, finished.stderr
    assert "Note: Without --weights, the model is stored with the weights that my_net:build gave it." in finished.stderr


def test_the_commands_take_it_as_their_own(run, added, folder, tmp_path):
    assert "net" in run("list").stdout
    assert "factory: my_net:build" in run("show", added, "--yaml").stdout
    data = ("--dataset", str(folder))
    swept = run("attack", added, "--eps", "4/255", *data, "--store")
    assert swept.returncode == 0, swept.stderr
    attacked = run("attack", added, "--eps", "4/255", "--attack", "PGD:steps=2", *data, "--store")
    assert attacked.returncode == 0, attacked.stderr
    assert set(model_card(added).evaluations) == {"fgsm", "attacks"}
    assert run("export", added, str(tmp_path / "given"), "--name", "other").returncode == 0
    # The factory was allowed when the model was added, so the exported one needs no trust on this machine.
    finished = run("add", str(tmp_path / "given" / "other.yaml"))
    assert finished.returncode == 0, finished.stderr
    images = torch.rand(2, 3, 24, 24)
    assert torch.equal(load_model("other")(images), load_model(added)(images))


def test_what_an_encoder_alone_has_is_one_sentence(run, added, folder):
    finished = run("entropy", added, "--dataset", str(folder))
    assert finished.returncode == 2
    assert "The latents of 'net' are unknown" in finished.stderr


def test_images_of_another_size_are_refused_before_anything_is_attacked(run, added, folder, tmp_path):
    other = tmp_path / "larger"
    for path in folder.rglob("*.png"):
        target = other / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((32, 32)).save(target)
    finished = run("attack", added, "--dataset", str(other))
    assert finished.returncode == 2
    assert "takes images of 24x24 pixels in 3 channels, and those of larger are 32x32" in finished.stderr


def test_the_hub_form_needs_trust_on_another_machine(run, added, tmp_path, monkeypatch):
    expected = load_model(added)
    save_pretrained(added, tmp_path / "hub")
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "another home"))
    finished = run("add", str(tmp_path / "hub"))
    assert finished.returncode == 2
    assert "built by my_net:build, which its card names and you have not allowed" in finished.stderr
    images = torch.rand(2, 3, 24, 24)
    assert torch.equal(load_pretrained(tmp_path / "hub", trust=True)(images), expected(images))
    finished = run("add", str(tmp_path / "hub"), "--trust")
    assert finished.returncode == 0, finished.stderr
    assert torch.equal(load_model(added)(images), expected(images))
    assert "my_net:build" in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.parametrize("inside", ["module", "_orig_mod"])
def test_weights_of_a_parallel_or_compiled_model_are_told_from_those_of_another(run, monkeypatch, inside):
    Path("my_net.py").write_text(FACTORY)
    save_file({f"{inside}.{key}": value for key, value in network(4).state_dict().items()}, "net.safetensors")
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    finished = run("add", "my_net:build", "--name", "net", "--weights", "net.safetensors", "--dataset", "digits")
    assert finished.returncode == 2
    assert (
        f"names begin with '{inside}', so take the module inside, model.{inside}, and its weights." in finished.stderr
    )
    assert finished.stderr.count("\n") == 1


def test_an_export_does_not_replace_a_file_that_is_no_card(run, mine):
    Path(f"{mine}.yaml").write_text("port: 80")
    finished = run("export", mine, ".")
    assert finished.returncode == 2
    assert f"'{mine}.yaml' exists and is no model card" in finished.stderr
    assert Path(f"{mine}.yaml").read_text() == "port: 80"


def test_the_folder_of_an_export(run, mine, tmp_path):
    folder = tmp_path / "shared"
    assert run("export", mine, str(folder)).returncode == 0
    finished = run("add", str(folder), "--name", "back")
    assert finished.returncode == 0, finished.stderr
    assert model_card("back").weights.sha256 == model_card(mine).weights.sha256
    (folder / "other.yaml").write_text("{}")
    finished = run("add", str(folder), "--name", "again")
    assert finished.returncode == 2
    assert "several cards (mine.yaml, other.yaml): give one of these files" in finished.stderr


def test_a_folder_without_a_card(run, tmp_path):
    finished = run("add", str(tmp_path))
    assert finished.returncode == 2
    assert "holds neither config.json nor a card: give the .yaml file" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("my_net:build",), "needs a name in the registry"),
        (("my_net:build", "--name", "x"), "give --dataset"),
        (("my_net:build", "--name", "../x", "--dataset", "digits"), "not a safe file name"),
        (("my_net:build", "--name", "x", "--dataset", "digits", "--arg", "width"), "not of the form NAME=VALUE"),
        (("my_net:build", "--name", "x", "--dataset", "digits", "--mean", "0.5"), "--mean and --std go together"),
        (("my_net:build", "--name", "x", "--dataset", "digits", "--mean", "a", "--std", "1"), "not made of numbers"),
        (("my_net:build", "--name", "x", "--dataset", "digits"), "needs the Python module 'my_net'"),
        (("my_net:build", "--name", "x", "--dataset", "digits", "--weights", "absent.safetensors"), "cannot be read"),
        (("timm:resnet18", "--name", "x", "--dataset", "digits"), "'timm:resnet18' alone has random weights"),
        (("absent.yaml",), "absent.yaml"),
        (("absent.yaml", "--dataset", "digits"), "leave --dataset out"),
        (("absent.yaml", "--description", "A net."), "leave --description out"),
    ],
)
def test_what_cannot_be_added_is_one_sentence(run, monkeypatch, arguments, message):
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    finished = run("add", *arguments)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ('{"out": logits, "aux": logits}', "The model gives a dict with the keys 'out', 'aux' and no logits: write a"),
        ("(logits, images)", "The model gives a tuple and no logits: write a function that returns a module"),
        ("SimpleNamespace(logits=None)", "The model gives a SimpleNamespace and no logits"),
        ('{"logits": logits, "aux": logits}', None),
        ("SimpleNamespace(logits=logits)", None),
    ],
)
def test_an_output_that_is_no_tensor(run, monkeypatch, folder, output, message):
    Path("my_net.py").write_text(
        f"{FACTORY}\nfrom types import SimpleNamespace\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = build()\n"
        f"    def forward(self, images):\n        logits = self.net(images)\n        return {output}\n"
    )
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    finished = run("add", "my_net:Net", "--name", "net", "--dataset", str(folder))
    assert finished.returncode == (2 if message else 0), finished.stderr
    if message:
        assert message in finished.stderr
        assert finished.stderr.count("\n") == 1
