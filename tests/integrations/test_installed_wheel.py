"""ibrobust from its wheel, outside the checkout, alone and with somebody else's plugin beside it.

The environments are new; the dependencies come from the environment that runs the tests, through a path file, so
that nothing is downloaded.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from installed import Environment, build, new_environment

pytestmark = pytest.mark.network

TRAIN = (
    "train --dataset digits --objective {objective} --width 2 --latent-dim 8 --epochs 1 "
    "--decoder logistic --name {name}"
)

PLUGIN = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "ibrobust-example"
version = "1.0"
dependencies = ["ibrobust"]

[project.entry-points."ibrobust.objectives"]
margin = "ibrobust_example:Margin"
broken_objective = "ibrobust_example.broken:Objective"

[project.entry-points."ibrobust.models"]
example_cards = "ibrobust_example:cards"
broken_cards = "ibrobust_example.broken:cards"
""",
    "ibrobust_example/__init__.py": '''
"""Somebody else's objective and models."""

from pathlib import Path

from torch import nn

from ibrobust.objectives import Loss, Objective


class Margin(Objective):
    def __init__(self, *, latent_dim, num_classes):
        super().__init__()
        self.head = nn.Linear(latent_dim, num_classes)

    def forward(self, latents, labels):
        loss = nn.functional.multi_margin_loss(self.head(latents), labels)
        return Loss(loss, {"margin": loss})


def cards():
    return Path(__file__).parent / "cards"
''',
    "ibrobust_example/broken.py": 'raise RuntimeError("written for another version")\n',
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, distributions: tuple[Path, Path]) -> Environment:
    """ibrobust's wheel and nothing else."""
    environment = new_environment(tmp_path_factory.mktemp("environment"))
    environment.install(distributions[1])
    return environment


@pytest.fixture(scope="module")
def trained(environment: Environment) -> str:
    """The name of a model that the installed command trained."""
    environment.ibrobust(TRAIN.format(objective="cross_entropy", name="from-the-wheel"))
    return "from-the-wheel"


@pytest.fixture(scope="module")
def with_plugin(
    tmp_path_factory: pytest.TempPathFactory, distributions: tuple[Path, Path], environment: Environment, trained: str
) -> Environment:
    """ibrobust's wheel, and beside it a plugin that brings an objective, a model, and two broken entry points."""
    source = tmp_path_factory.mktemp("plugin")
    for name, content in PLUGIN.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(content)
    cards = source / "ibrobust_example" / "cards"
    cards.mkdir()
    card = (environment.home / "models" / f"{trained}.yaml").read_text()
    (cards / "from-a-plugin.yaml").write_text(card.replace(f"name: {trained}\n", "name: from-a-plugin\n", 1))
    weights = next((environment.home / "models").glob("*.safetensors"))
    (cards / weights.name).write_bytes(weights.read_bytes())
    wheel = next(file for file in build(source, source / "dist") if file.suffix == ".whl")
    beside = new_environment(tmp_path_factory.mktemp("beside"))
    beside.install(distributions[1])
    beside.install(wheel)
    return beside


def test_the_wheel_holds_one_top_level_module(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    info = next(top for top in tops if top.endswith(".dist-info"))
    assert tops == {"ibrobust", info}


def test_the_sdist_can_be_tested(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/integrations/test_installed_wheel.py"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".pt", ".jpg"))]


def test_nothing_but_ibrobust_was_installed(environment: Environment) -> None:
    installed = {path.name for path in environment.site.iterdir()} - {"dependencies.pth", "__pycache__"}
    assert {re.sub(r"-.*", "", name) for name in installed} == {"ibrobust"}


def test_the_code_and_the_zoo_come_from_the_wheel(environment: Environment) -> None:
    found = environment.python(
        "import ibrobust.home, sys; print(ibrobust.__file__, ibrobust.home.zoo_dir()); print('torch' in sys.modules)"
    )
    assert found.split() == [
        str(environment.site / "ibrobust" / "__init__.py"),
        str(environment.site / "ibrobust" / "model_zoo"),
        "False",
    ]


def test_train_list_load_and_attack(environment: Environment, trained: str) -> None:
    assert trained in environment.ibrobust("list").stdout
    assert trained in environment.ibrobust(f"attack {trained} --eps 1/255 --n-examples 20").stdout
    shape = "import ibrobust, torch; print(ibrobust.load_model('{}')(torch.rand(2, 3, 32, 32)).shape)"
    assert environment.python(shape.format(trained)).strip() == "torch.Size([2, 10])"


def test_robustbench_loads_it(environment: Environment, trained: str) -> None:
    code = f"""
import ibrobust.integrations.robustbench as rb
rb.register()
from robustbench import load_model
print(type(load_model({trained!r}, dataset="cifar10", threat_model="Linf")).__name__)
"""
    assert environment.python(code).split() == ["ImageClassifier"]


def test_the_doctor_finds_no_trouble(environment: Environment) -> None:
    assert "What ibrobust needs is installed" in environment.ibrobust("doctor").stdout
    assert "ibrobust can run" in environment.ibrobust("doctor --full").stdout


def test_benchmark(environment: Environment, trained: str) -> None:
    done = environment.ibrobust(f"benchmark {trained} --eps 8/255 --n-examples 4")
    assert "n = 4 test images of digits" in done.stdout


def test_bad_input_is_one_sentence_and_exit_code_2(environment: Environment) -> None:
    done = environment.ibrobust("attack no-such-model", expect=2)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: Unknown model 'no-such-model'")
    assert len(done.stderr.splitlines()) == 1


def test_an_objective_of_a_plugin_is_trained_and_attacked(with_plugin: Environment) -> None:
    done = with_plugin.ibrobust(TRAIN.format(objective="margin", name="with-margin"))
    assert "The objective plugin 'broken_objective'" in done.stderr
    assert "written for another version" in done.stderr
    assert "with-margin" in with_plugin.ibrobust("list").stdout
    assert "with-margin" in with_plugin.ibrobust("attack with-margin --eps 1/255 --n-examples 20").stdout


def test_a_model_of_a_plugin_is_listed_loaded_and_attacked(with_plugin: Environment) -> None:
    done = with_plugin.ibrobust("list")
    assert "from-a-plugin" in done.stdout
    assert "The model plugin 'broken_cards'" in done.stderr
    assert "from-a-plugin" in with_plugin.ibrobust("attack from-a-plugin --eps 1/255 --n-examples 20").stdout
    assert with_plugin.python(
        "import ibrobust, torch; print(ibrobust.load_model('from-a-plugin')(torch.rand(1, 3, 32, 32)).shape)"
    ).split() == ["torch.Size([1,", "10])"]
