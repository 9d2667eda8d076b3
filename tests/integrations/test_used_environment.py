"""ibrobust without torchattacks and RobustBench, installed as the README says for an environment that is in use.

The environment is new and holds what the README lists, with what that requires, each a link to the environment that
runs the tests. So nothing is downloaded, and a package that the list forgets is missing.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from installed import Environment, new_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.network

CHECKOUT = Path(__file__).parents[2]
LEFT_OUT = {"torchattacks", "robustbench", "timm", "setuptools"}
ATTACK = "attack knn_ib-digits --n-examples 8 --eps 8/255"
# Each command, and words of what it prints.
WORKING = {
    "list": "knn_ib-digits",
    ATTACK: "Accuracy under attack",
    f"{ATTACK} --attack PGD:steps=2": "PGD:steps=2",
    f"{ATTACK} --attack worst_case": "WorstCase",
    f"{ATTACK} --attack AutoAttack:n_iter=2": "AutoAttack",
    "audit knn_ib-digits --quick --n-examples 16 --eps 8/255": "worst case",
    "train --dataset digits --objective cross_entropy --width 2 --latent-dim 8 --epochs 1 --name trained": "trained",
    "doctor": "What ibrobust needs is installed",
    "doctor --full": "ibrobust can run",
}
# Each command, and the package that it needs.
REFUSED = {
    f"{ATTACK} --attack CW": "torchattacks",
    "benchmark knn_ib-digits --n-examples 8": "robustbench",
    "attack robustbench:Standard --dataset digits --n-examples 8": "robustbench",
    "attack timm:resnet18 --dataset digits --n-examples 8": "timm",
}
RUN_ALL = """
import contextlib, io, json, sys
from ibrobust.cli.main import main
found = {{}}
for command in {commands}:
    output = io.StringIO()
    sys.argv = ["ibrobust", *command.split()]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main()
        except SystemExit as stop:
            found[command] = stop.code or 0, output.getvalue()
print(json.dumps(found))
"""


def listed() -> list[Requirement]:
    """Return the requirements of the README's command."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = [line for line in text.splitlines() if line.startswith("pip install") and "pyautoattack" in line]
    return [Requirement(word) for word in shlex.split(command)[2:]]


def with_what_they_require(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            requirements = [Requirement(text) for text in distribution(name).requires or ()]
        except PackageNotFoundError:  # for another system than this one
            continue
        found.add(name)
        waiting += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, distributions: tuple[Path, Path]) -> Environment:
    environment = new_environment(tmp_path_factory.mktemp("used"), dependencies=False)
    for name in with_what_they_require(requirement.name for requirement in listed()):
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            link = environment.site / top
            if not link.exists():
                link.symlink_to(Path(str(package.locate_file(top))))
    environment.install(distributions[1])
    return environment


def test_the_readme_lists_what_ibrobust_requires_but_those(used: Environment):
    (installed,) = Distribution.discover(name="ibrobust", path=[str(used.site)])
    required = [Requirement(text) for text in installed.requires or ()]
    required = [each for each in required if each.marker is None]  # no extras
    assert {str(each) for each in listed()} == {str(each) for each in required if each.name not in LEFT_OUT}


def test_they_are_not_there(used: Environment):
    assert not {"torchattacks", "robustbench", "timm"} & {path.name for path in used.site.iterdir()}


@pytest.fixture(scope="module")
def printed(used: Environment) -> dict[str, tuple[int, str]]:
    """Exit code and output of each command, all in one process, which imports torch once."""
    return json.loads(used.python(RUN_ALL.format(commands=[*WORKING, *REFUSED])).splitlines()[-1])


@pytest.mark.parametrize("command", WORKING)
def test_everything_else_works(printed, command: str):
    code, output = printed[command]
    assert (code, WORKING[command] in output) == (0, True), output


@pytest.mark.parametrize("command", REFUSED)
def test_where_they_are_needed_one_sentence_names_the_command(printed, command: str):
    code, output = printed[command]
    assert code == 2
    assert re.fullmatch(rf"Error: [^\n]*pip install {REFUSED[command]}[^\n]*\n", output)
