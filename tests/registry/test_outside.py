"""Models that are not ibrobust's own: stored as what builds them and their weights, and loaded as what they were."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
import yaml
from torch import nn

from ibrobust import logits_of, normalized, two_logits
from ibrobust.data import Dataset, Split, load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.registry import copy_model, export_model, factories, list_models, load_model, model_card, register_model
from ibrobust.registry.card import read_card
from ibrobust.registry.outside import module_of
from ibrobust.registry.same_function import is_the_same
from ibrobust.training.recipe import Recipe

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)

FACTORY = """
from types import SimpleNamespace
from torch import nn

print("my_nets was imported")

def build(width=4, classes=7):
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.ReLU(), nn.BatchNorm2d(width),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))

class Wrapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()
    def forward(self, images):
        return SimpleNamespace(logits=self.net(images))

def one():
    return build(classes=1)

def tied():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False))
    net[2].weight = net[1].weight
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), net, nn.Linear(12, 7))

def shifted(by=0.0):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build()
        def forward(self, images):
            return self.net(images) * (1 + by)
    return Shifted()
"""


def dataset(classes: int = 7, *, channels: int = 3, size: int = 24) -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
        return Split(images, torch.arange(count) % classes)

    return Dataset("seven", tuple(f"class {index}" for index in range(classes)), split(21), split(14))


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module of factories in a folder of its own, which is the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "my_nets.py").write_text(FACTORY)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    import my_nets

    yield my_nets
    sys.modules.pop("my_nets", None)


def trained_a_little(module: nn.Module) -> nn.Module:
    """Return the module with the statistics of batch normalisation moved, so that a missing buffer shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        module.train()(torch.rand(8, 3, 24, 24))
    return module.eval()


def logits(model: nn.Module) -> torch.Tensor:
    images = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(images)


def test_a_module_with_its_own_normalisation_loads_as_what_it_was(nets):
    model = normalized(trained_a_little(nets.build(width=3)), MEAN, STD)
    card = register_model("net", model, dataset=dataset(), factory="my_nets:build", arguments={"width": 3})
    assert torch.equal(logits(load_model("net")), logits(model))
    record = card.architecture
    assert (record.factory, record.arguments, record.image_size, record.channels) == (
        "my_nets:build",
        {"width": 3},
        (24, 24),
        3,
    )
    assert record.mean == pytest.approx(MEAN)
    assert model_card("net") == card
    assert not load_model("net").training


def test_its_accuracy_is_counted_on_the_test_images(nets):
    model = trained_a_little(nets.build())
    data = dataset()
    card = register_model("net", model, dataset=data, factory=nets.build)
    right = model(data.test.images.float() / 255).argmax(dim=1) == data.test.labels
    assert (card.clean_accuracy["head"].correct, card.clean_accuracy["head"].total) == (int(right.sum()), 14)


def test_logits_inside_an_output_and_a_single_logit(nets):
    wrapping = logits_of(normalized(trained_a_little(nets.Wrapping()), MEAN, STD))
    register_model("inside", wrapping, dataset=dataset(), factory=nets.Wrapping)
    assert torch.equal(logits(load_model("inside")), logits(wrapping))
    binary = normalized(two_logits(trained_a_little(nets.one())), MEAN, STD)
    register_model("binary", binary, dataset=dataset(2), factory="my_nets:one")
    assert torch.equal(logits(load_model("binary")), logits(binary))


def test_weights_that_two_layers_share(nets):
    model = nets.tied().eval()
    register_model("tied", model, dataset=dataset(), factory=nets.tied)
    assert torch.equal(logits(load_model("tied")), logits(model))


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [("timm:test_byobnet", {"num_classes": 7}), ("torchvision:squeezenet1_1", {"num_classes": 7})],
)
def test_networks_of_the_libraries(factory, arguments):
    record = SimpleNamespace(factory=factory, arguments=arguments)
    model = normalized(factories.build_module(record, folder=None).eval(), MEAN, STD)
    register_model("net", model, dataset=dataset(size=64), factory=factory, arguments=arguments)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model("net")(images), model(images))


@pytest.mark.parametrize(
    ("given", "factory", "arguments", "message"),
    [
        ("shifted", "my_nets:build", {}, "do not fit what my_nets:build builds"),
        ("shifted", "my_nets:shifted", {"by": 0.1}, "what would be loaded has other logits"),
        ("shifted", "my_nets:absent", {}, "'my_nets' has no 'absent'"),
        ("shifted", "my_nets:shifted", {"size": 3}, "fails with the arguments"),
        ("shifted", "my_nets:shifted", {"by": torch.nn.ReLU()}, "cannot be kept in a card"),
        ("shifted", "my_nets", {}, "not of the form package.module:function, timm:NAME or torchvision:NAME"),
        ("shifted", "my_nets:FACTORY:x", {}, "not of the form"),
        ("shifted", "timm:resnet-18", {}, "timm has no model 'resnet-18': did you mean resnet18"),
        ("shifted", "timm:resnet18", {"pretrained": True}, "is given pretrained: leave it out"),
        ("shifted", lambda: None, {}, "put it at the top level of a module"),
        ("build", None, {}, "A Sequential cannot be stored without its factory"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(nets, home, given, factory, arguments, message):
    before = list_models()
    with pytest.raises(IbrobustError, match=message) as caught:
        register_model("net", getattr(nets, given)(), dataset=dataset(), factory=factory, arguments=arguments)
    assert "\n" not in str(caught.value)
    assert list_models() == before
    assert not (home / "factories").exists()


def fresh_process(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_model_that_was_registered_here_loads_in_a_fresh_process_from_another_folder(nets, tmp_path):
    model = trained_a_little(nets.build())
    register_model("net", model, dataset=dataset(), factory=nets.build)
    # Where another module has the name of the factory's.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "my_nets.py").write_text("raise SystemExit('the wrong module')")
    code = (
        "import torch, ibrobust; g = torch.Generator().manual_seed(2);"
        "print(ibrobust.load_model('net')(torch.rand(5, 3, 24, 24, generator=g)).tolist())"
    )
    finished = fresh_process(elsewhere, code)
    assert finished.returncode == 0, finished.stderr
    got = torch.tensor(json.loads(finished.stdout.splitlines()[-1]))
    torch.testing.assert_close(got, logits(model))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("nn.ReLU()", "nn.Softplus()"),
        ("nn.ReLU()", "nn.Unflatten(1, (1000, 1000))"),  # which fails
        ("nn.Linear(width, classes))", "nn.Linear(width, classes), nn.Softmax(1))"),
        ("nn.Conv2d(3, width, 3, stride=4)", "nn.Conv2d(3, width, 3, stride=4, padding_mode='reflect', padding=1)"),
    ],
)
def test_a_factory_whose_code_was_changed_is_refused(nets, before, after):
    register_model("net", trained_a_little(nets.build()), dataset=dataset(), factory="my_nets:build")
    path = Path(nets.__file__)
    path.write_text(path.read_text().replace(before, after))
    del sys.modules["my_nets"]
    with pytest.raises(IbrobustError, match="my_nets:build builds another function than when 'net' was registered"):
        load_model("net")


@pytest.mark.parametrize(
    "noise",
    ["torch.randn_like(images)", "float(numpy.random.randn())", "random.gauss(0, 1)"],
    ids=["torch", "numpy", "python"],
)
def test_a_model_that_draws_random_numbers_is_recognised_by_the_same_draws(nets, noise):
    path = Path(nets.__file__)
    text = "import random\nimport numpy\nimport torch\n" + path.read_text()
    path.write_text(text.replace("return self.net(images)", f"return self.net(images + 0.1 * {noise})"))
    del sys.modules["my_nets"]
    model = importlib.import_module("my_nets").shifted().eval()
    states = (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    register_model("net", model, dataset=dataset(), factory="my_nets:shifted")
    assert states == (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    for seed in (0, 5):
        torch.manual_seed(seed)
        numpy.random.seed(seed)
        random.seed(seed)
        load_model("net")
    path.write_text(path.read_text().replace("0.1 *", "0.2 *"))
    del sys.modules["my_nets"]
    with pytest.raises(IbrobustError, match="another function than when 'net' was registered"):
        load_model("net")


def test_a_changed_gradient_is_another_function(nets):
    register_model("net", trained_a_little(nets.shifted()), dataset=dataset(), factory="my_nets:shifted")
    path = Path(nets.__file__)
    path.write_text(
        path.read_text().replace("return self.net(images)", "return self.net((images * 1e9).round() / 1e9)")
    )
    del sys.modules["my_nets"]
    with pytest.raises(IbrobustError, match="another function"):
        load_model("net")


@pytest.fixture
def two_projects(tmp_path, monkeypatch):
    """Two folders, on no path, with a module of the same name; the function itself imports another module of its."""
    for folder, activation in (("one", "ReLU"), ("two", "Softplus")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_net.py").write_text(
            "def build():\n    from same_layers import layers\n    return layers()\n"
        )
        (tmp_path / folder / "same_layers.py").write_text(
            "from torch import nn\n\ndef layers():\n    start = nn.AvgPool2d(8), nn.Flatten(), nn.Linear(27, 27)\n"
            f"    return nn.Sequential(*start, nn.{activation}(), nn.Linear(27, 7))\n"
        )

    def forget() -> None:
        for name in ("same_net", "same_layers"):
            sys.modules.pop(name, None)

    forget()
    yield forget
    forget()


def register_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Register the model of a folder of `two_projects`, under the folder's name, as `ibrobust add` does; return it."""
    monkeypatch.chdir(folder)
    model = module_of("same_net:build", {}, None).eval()
    register_model(folder.name, model, dataset=dataset(), factory="same_net:build")
    return model


def test_a_function_may_import_a_module_beside_its_own(two_projects, tmp_path, monkeypatch):
    model = register_from(tmp_path / "one", monkeypatch)
    monkeypatch.chdir(tmp_path)
    two_projects()
    path = list(sys.path)
    assert torch.equal(logits(load_model("one")), logits(model))
    assert sys.path == path


def test_a_module_that_the_function_needs_and_nobody_has_is_named(nets):
    Path("lacking.py").write_text("def build():\n    import a_module_nobody_has\n")
    with pytest.raises(IbrobustError, match="No module named 'a_module_nobody_has'.: install that module"):
        module_of("lacking:build", {}, None)


def test_factories_of_one_name_in_two_folders(two_projects, tmp_path, monkeypatch):
    models = {}
    for name in ("one", "two"):
        models[name] = register_from(tmp_path / name, monkeypatch)
        two_projects()
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two", "one"):
        assert torch.equal(logits(load_model(name)), logits(models[name]))


def test_a_module_that_was_imported_from_another_folder_comes_back_after_loading(two_projects, tmp_path, monkeypatch):
    register_from(tmp_path / "one", monkeypatch)
    two_projects()
    register_from(tmp_path / "two", monkeypatch)
    mine = sys.modules["same_net"], sys.modules["same_layers"]
    load_model("one")
    assert (sys.modules["same_net"], sys.modules["same_layers"]) == mine


def test_a_folder_that_is_gone_is_named(two_projects, tmp_path, monkeypatch):
    register_from(tmp_path / "one", monkeypatch)
    two_projects()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").rename(tmp_path / "moved")
    with pytest.raises(IbrobustError, match=r"The folder '.*/one', where same_net:build was when .* does not exist"):
        load_model("one")
    monkeypatch.chdir(tmp_path / "moved")
    load_model("one", trust=True)
    two_projects()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    with pytest.raises(IbrobustError, match=r"'same_net', which cannot be imported: .* restore it in '.*/one', where"):
        load_model("one")


def test_a_damaged_record_of_what_is_allowed_is_named(nets, home):
    register_model("net", nets.build().eval(), dataset=dataset(), factory="my_nets:build")
    (record,) = (home / "factories").iterdir()
    record.write_text("")
    with pytest.raises(IbrobustError, match=rf"{record.name}' is damaged: remove it, and register the model again"):
        load_model("net")


@pytest.fixture
def foreign(nets, home, tmp_path, monkeypatch):
    """The name of a model whose card and weights came by hand from another machine; its factory was never allowed."""
    register_model("net", trained_a_little(nets.build()), dataset=dataset(), factory=nets.build)
    export_model("net", tmp_path / "given", new_name="foreign")
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "another home"))
    (tmp_path / "another home").mkdir()
    shutil.copytree(tmp_path / "given", tmp_path / "another home" / "models")
    del sys.modules["my_nets"]
    return "foreign"


def test_a_card_from_elsewhere_imports_nothing_until_the_user_allows_it(foreign):
    with pytest.raises(IbrobustError, match="built by my_nets:build, which its card names and you have not allowed"):
        load_model(foreign)
    assert "my_nets" not in sys.modules
    assert logits(load_model(foreign, trust=True)).shape == (5, 7)
    with pytest.raises(IbrobustError, match="not allowed"):  # that was for once
        load_model(foreign)


def test_the_factory_of_an_installed_package_is_allowed(foreign, tmp_path, monkeypatch):
    info = tmp_path / "site" / "plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{factories.ENTRY_POINT_GROUP}]\nnet = my_nets:build\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert logits(load_model(foreign)).shape == (5, 7)


def test_another_call_of_an_allowed_function_is_not_allowed(nets, home):
    register_model("net", nets.build(), dataset=dataset(), factory=nets.build)
    path = home / "models" / "net.yaml"
    path.write_text(path.read_text().replace("arguments: {}", "arguments: {width: 5}"))
    with pytest.raises(IbrobustError, match="not allowed"):
        load_model("net")


@pytest.mark.parametrize(
    "argument", [{"pretrained": True}, {"checkpoint_path": "x.pth"}, {"pretrained_cfg": {"url": "x"}}]
)
def test_a_card_cannot_make_a_library_read_other_weights(nets, home, argument):
    record = SimpleNamespace(factory="timm:test_byobnet", arguments=argument)
    with pytest.raises(IbrobustError, match="leave it out"):
        factories.require_allowed("net", record, trust=True)
    with pytest.raises(IbrobustError, match="not allowed"):
        factories.require_allowed(
            "net", SimpleNamespace(factory="timm:test_byobnet", arguments={"act_layer": "x"}), trust=False
        )


def test_a_copy_and_an_export_have_the_architecture_and_no_path_of_this_machine(nets, tmp_path):
    model = trained_a_little(nets.build())
    card = register_model("net", model, dataset=dataset(), factory=nets.build)
    copy_model("net", "twin")
    assert torch.equal(logits(load_model("twin")), logits(model))
    export_model("net", tmp_path / "given")
    assert read_card(tmp_path / "given" / "net.yaml").architecture == card.architecture
    assert str(tmp_path) not in (tmp_path / "given" / "net.yaml").read_text()


def test_rounded_weights_are_recognised_as_themselves(nets, tmp_path, monkeypatch):
    digits = load_dataset("digits")
    card = register_model(
        "net",
        trained_a_little(nets.build(classes=10)),
        dataset=digits,
        factory="my_nets:build",
        arguments={"classes": 10},
        recipe=Recipe(dataset="digits"),
    )
    rounded = export_model("net", tmp_path / "given" / "models", half=True)
    assert rounded.architecture.probe != card.architecture.probe
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "given"))
    assert logits(load_model("net", trust=True)).shape == (5, 10)


@pytest.mark.parametrize(
    ("other", "same"), [((0.1, 0.2), True), ((0.1, 0.2, 0.3), False), ((0.1,), False), ((), False)]
)
def test_a_probe_of_fewer_or_more_numbers_is_of_another_model(other, same):
    assert is_the_same((0.1, 0.2), other, 1e-5) is same


def test_a_card_of_ibrobusts_own_model_is_as_it_was(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    text = (home / "models" / "mine.yaml").read_text()
    assert "architecture" not in text
    assert "schema_version: 1\n" in text


def test_a_card_of_a_model_from_outside_names_only_what_it_has(nets, home):
    register_model("net", nets.build(), dataset=dataset(), factory=nets.build)
    fields = yaml.safe_load((home / "models" / "net.yaml").read_text())
    assert fields["schema_version"] == 1
    assert [name for part in (fields, fields["architecture"]) for name in part if part[name] is None] == [
        "recipe",
        "training",
    ]


def test_a_card_with_neither_kind_is_damaged(nets, home):
    register_model("net", nets.build(), dataset=dataset(), factory=nets.build)
    path = home / "models" / "net.yaml"
    start = path.read_text().index("architecture:")
    end = path.read_text().index("fixed_power:")
    path.write_text(path.read_text()[:start] + path.read_text()[end:])
    with pytest.raises(IbrobustError, match="neither an architecture nor width"):
        model_card("net")


def test_a_decoder_that_is_not_there(nets):
    register_model("net", nets.build(), dataset=dataset(), factory=nets.build)
    with pytest.raises(IbrobustError, match="leave decoder and num_samples out"):
        load_model("net", num_samples=3)


FLOAT32_ONLY = {
    "casts its images": "images.float().flatten(1) @ self.net",
    "makes a filter": "(images * torch.ones(1, 1, 24, 24)).flatten(1).to(torch.float32) @ self.net",
    "complex": "torch.fft.irfft2(torch.fft.rfft2(images) @ self.mixing).flatten(1) @ self.net",
}


@pytest.mark.parametrize("forward", FLOAT32_ONLY.values(), ids=FLOAT32_ONLY)
def test_a_model_that_fails_in_float64_is_compared_in_float32(nets, forward):
    path = Path(nets.__file__)
    text = f"""
import torch
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Parameter(torch.randn(1728, 7) / 40)
        self.mixing = nn.Parameter(torch.eye(13, dtype=torch.complex64))
    def forward(self, images):
        return {forward}
"""
    path.write_text(path.read_text() + text)
    del sys.modules["my_nets"]
    model = importlib.import_module("my_nets").Net().eval()
    register_model("net", model, dataset=dataset(), factory="my_nets:Net")
    images = torch.rand(2, 3, 24, 24)
    assert torch.equal(load_model("net")(images), model(images))
    path.write_text(path.read_text().replace("@ self.net", "@ self.net.round(decimals=3)"))
    del sys.modules["my_nets"]
    with pytest.raises(IbrobustError, match="another function than when 'net' was registered"):
        load_model("net")


def test_a_model_without_a_gradient_is_stored(nets, monkeypatch):
    class Rounding(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nets.build()

        def forward(self, images):
            return self.net(images).detach().round()

    nets.Rounding = Rounding
    model = Rounding().eval()
    register_model("net", model, dataset=dataset(), factory="my_nets:Rounding")
    assert torch.equal(logits(load_model("net")), logits(model))


def test_a_module_without_parameters_is_stored(nets):
    path = Path(nets.__file__)
    path.write_text(
        path.read_text() + "\ndef pixels():\n    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(7))\n"
    )
    del sys.modules["my_nets"]
    model = importlib.import_module("my_nets").pixels()
    card = register_model("net", model, dataset=dataset(), factory="my_nets:pixels")
    assert card.clean_accuracy["head"].total == 14
    assert torch.equal(logits(load_model("net")), logits(model))
