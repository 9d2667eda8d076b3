"""What needs no torch does not import it: lists, cards, and refusals of what is named."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from ibrobust.cli.main import main
sys.argv = ["ibrobust", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    assert (stop.code or 0) == {code}, stop.code
heavy = {{"torch", "numpy", "scipy", "torchattacks", "sklearn", "matplotlib", "pandas"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
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
        (["study", "status", "figure9"], 2),
        (["demo", "--output", "/dev/null"], 2),
    ],
)
def test_no_torch_is_imported(arguments, code):
    command = [sys.executable, "-c", CODE.format(arguments=arguments, code=code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
