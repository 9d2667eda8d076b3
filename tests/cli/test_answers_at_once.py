"""What needs no torch does not import it: help, lists, cards, and refusals of what is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks one process for each command")

CASES = [
    (["--help"], 0),
    (["--version"], 0),
    (["train", "--help"], 0),
    (["attack", "--help"], 0),
    (["list"], 0),
    (["show", "cross_entropy-w16-s0"], 0),
    (["doctor"], 0),
    (["show", "cross_entropy"], 2),
    (["attack", "cross_entropy"], 2),
    (["attack", "cross_entropy-w16-s0", "--decoder", "haed"], 2),
    (["attack", "--eps", "9"], 2),
    (["attack", "--json", "."], 2),
    (["attack", "--figure", "a.xyz"], 2),
    (["attack", "--attack", "PDG"], 2),
    (["attack", "--attack", "PGD:step=3"], 2),
    (["attack", "--attack", "pgd:steps=x"], 2),
    (["attack", "--attack", "PGD:norm=L3"], 2),
    (["attack", "--attack", "AutoAttack:version=fast"], 2),
    (["attack", "--attack", "PGD", "--eps", "2"], 2),
    (["attack", "--seed", "-1"], 2),
    (["attack", "--device", "mps"], 2),
    (["attack", "--dataset", "digits:sise=8"], 2),
    (["attack", "--dataset", "cifar10:size=x"], 2),
    (["attack", "--dataset", "torchvision:MNSIT"], 2),
    (["attack", "--dataset", "digits", "--split", "val"], 2),
    (["attack", "robustbench:Standart"], 2),
    (["attack", "timm:resnet999"], 2),
    (["attack", "--attack", "transfer:timm:resnet999"], 2),
    (["audit", "cross_entropy-w16-s0", "--seed", "-1"], 2),
    (["audit", "cross_entropy-w16-s0", "--attack", "PGD:restarts=0"], 2),
    (["audit", "cross_entropy-w16-s0", "--attack", "PGD:norm=L2"], 2),
    (["audit", "cross_entropy-w16-s0", "--surrogate", "robustbench:Standart"], 2),
    (["entropy", "cross_entropy-w16-s0", "--seed", "-1"], 2),
    (["benchmark", "timm:resnet999"], 2),
    (["benchmark", "cross_entropy-w16-s0", "--seed", "-1"], 2),
    (["attack", "--attack", "transfer:cross_entropy"], 2),
    (["attack", "--attack", "worst_case:surrogate=cross_entropy"], 2),
    (["attack", "--attack", "no_such_module:darken"], 2),
    (["attack", "--device", "gpu"], 2),
    (["attack", "--dataset", "cifar"], 2),
    (["attack", "--dataset", __file__], 2),
    (["attack", "--attack", "PGD", "--state", __file__], 2),
    (["list", "cross_entropy"], 2),
    (["attack", "no_such_module:model"], 2),
    (["audit", "cross_entropy-w16-s0", "--attack", "PDG"], 2),
    (["audit", "cross_entropy-w16-s0", "--dataset", "no/such/folder"], 2),
    (["entropy", "cross_entropy-w16-s0", "--device", "cuda:first"], 2),
    (["verify", __file__, "cross_entropy-w16-s0", "--device", "gpu"], 2),
    (["verify", "absent.safetensors", "cross_entropy-w16-s0"], 2),
    (["benchmark", "cross_entropy-w16-s0", "--threat-model", "L3"], 2),
    (["benchmark", "cross_entropy-w16-s0", "--device", "gpu"], 2),
    (["add", "absent"], 2),
    (["add", "absent.yaml"], 2),
    (["add", "no_such_module:build", "--name", "mine", "--dataset", "digits"], 2),
    (["audit", "cross_entropy"], 2),
    (["audit", "cross_entropy-w16-s0", "--surrogate", "cross_entropy"], 2),
    (["entropy", "cross_entropy"], 2),
    (["benchmark", "cross_entropy"], 2),
    (["train", "--preset", "papre"], 2),
    (["train", "--beta", "2"], 2),
    (["train", "--objective", "knn_bi"], 2),
    (["train", "--set", "objective_options.margin=2.0"], 2),
    (["train", "--decoder", "logistics"], 2),
    (["train", "--dataset", "cifar"], 2),
    (["train", "--device", "gpu"], 2),
    (["train", "--log-with", "tensorbord"], 2),
    (["train", "--warm-start", "cross_entropy"], 2),
    (["train", "--name", "knn_ib-digits"], 2),
    (["export", "cross_entropy", "folder"], 2),
    (["study", "run", "figure9"], 2),
    (["study", "run", "figure1-demo", "--device", "gpu"], 2),
    (["study", "run", "figure1-demo", "--launcher", "slrum"], 2),
    (["study", "run", "{folder}/wrong.yaml"], 2),
    (["study", "status", "figure9"], 2),
    (["demo", "--output", "/dev/null"], 2),
]
WRONG_STUDY = """
name: wrong
base: {dataset: digits}
evaluations: {attacks: {attacks: ["PGD:steps=x"], eps: [0.1]}}
"""
# Each command in a fork of a process that has imported the command line alone; a Python for each would take longer.
PROGRAM = """
import json, os, sys, traceback
from ibrobust.cli.main import main

HEAVY = {"torch", "numpy", "scipy", "torchattacks", "robustbench", "sklearn", "matplotlib", "pandas"}

def answer(arguments, code):
    sys.argv = ["ibrobust", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert (stop.code or 0) == code, stop.code
    heavy = HEAVY & set(sys.modules)
    assert not heavy, heavy

folder = sys.argv[1]
for number, case in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if child:
        with open(f"{folder}/{number}.status", "w") as file:
            file.write(str(os.waitpid(child, 0)[1]))
        continue
    with open(f"{folder}/{number}.txt", "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    status = 1
    try:
        answer(*case)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of each command's exit status and output."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "wrong.yaml").write_text(WRONG_STUDY)
    cases = [([argument.format(folder=folder) for argument in arguments], code) for arguments, code in CASES]
    environment = {**os.environ, "IBROBUST_HOME": str(folder / "home")}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    subprocess.run(command, env=environment, input=json.dumps(cases), capture_output=True, text=True, check=True)
    return folder


@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join(arguments) for arguments, _ in CASES])
def test_no_torch_is_imported(answers, number):
    assert (answers / f"{number}.status").read_text() == "0", (answers / f"{number}.txt").read_text()
