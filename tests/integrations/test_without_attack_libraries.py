"""ibrobust in an environment that has neither torchattacks nor RobustBench."""

from __future__ import annotations

import subprocess
import sys

import pytest

# As if they had never been installed: neither importable nor listed.
BLOCKED = """
import importlib.metadata as metadata, importlib.util, sys

BLOCKED = {"torchattacks", "robustbench", "timm"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
search = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in BLOCKED else search(name, *rest)
listed = metadata.distribution

def distribution(name):
    if name in BLOCKED:
        raise metadata.PackageNotFoundError(name)
    return listed(name)

metadata.distribution = distribution
"""

ATTACKS = """
from ibrobust.cli.main import main
for arguments, code in (
    (["attack", "knn_ib-digits", "--n-examples", "8", "--eps", "8/255"], 0),
    (["attack", "knn_ib-digits", "--n-examples", "8", "--eps", "8/255", "--attack", "PGD:steps=2"], 0),
    (["audit", "cross_entropy-digits", "--n-examples", "8", "--eps", "1/255", "--quick"], 0),
    (["attack", "knn_ib-digits", "--n-examples", "8", "--attack", "CW"], 2),
    (["benchmark", "knn_ib-digits", "--n-examples", "8"], 2),
    (["attack", "robustbench:Standard", "--dataset", "digits", "--n-examples", "8"], 2),
    (["attack", "timm:resnet18", "--dataset", "digits", "--n-examples", "8"], 2),
):
    sys.argv = ["ibrobust", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert (stop.code or 0) == code, (arguments, stop.code)
assert not BLOCKED & set(sys.modules)
"""


@pytest.fixture(scope="module")
def finished() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + ATTACKS], capture_output=True, text=True, check=False)


def test_everything_but_their_own_attacks_zoo_and_benchmark_works(finished):
    assert finished.returncode == 0, finished.stderr
    assert "Accuracy under attack" in finished.stdout
    assert "PGD:steps=2" in finished.stdout


def test_where_they_are_needed_one_sentence_names_the_command(finished):
    note, no_attack, no_benchmark, no_zoo, no_timm = finished.stderr.strip().splitlines()
    assert note.startswith("Note: The model 'cross_entropy-digits'")  # of the audit
    assert no_attack.startswith("Error: Unknown attack 'CW'")
    assert "python -m pip install torchattacks" in no_attack
    assert no_benchmark == "Error: RobustBench is not installed: pip install robustbench."
    assert no_zoo == no_benchmark
    assert no_timm == "Error: timm is not installed: pip install timm."
