"""One training in two gloo processes against the same in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
BASE = {"dataset": "digits", "width": 2, "latent_dim": 8, "batch_size": 100, "optimizer": "sgd", "learning_rate": 0.01}
CASES = {
    "knn_ib": {"objective": "knn_ib", "noise": True},
    "soft neighbours with a memory": {
        "objective": "knn_ib",
        "noise": True,
        "neighbor_sharpness": 2.0,
        "memory_size": 150,
    },
    "fixed power": {"objective": "knn_ib", "noise": True, "fixed_power": True},
    "cross_entropy with dropconnect": {"objective": "cross_entropy", "dropconnect": 0.5},
    "dvib": {"objective": "dvib", "num_samples": 2},
    "ceb": {"objective": "ceb"},
    "dib": {"objective": "dib"},
    "adversarial with dropout": {"objective": "adversarial", "dropout": 0.5},
}
TOLERANCE = 1e-7  # in units of a tensor's largest value


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    paths = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """What one process has, and the first and second of two."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "cases.json").write_text(json.dumps({name: {**BASE, **fields} for name, fields in CASES.items()}))
    program = [str(ROOT / "tests/training/two_processes.py"), str(folder / "cases.json")]
    run([sys.executable, *program, str(folder / "one")], RANK="0")
    run([*TORCHRUN, *program, str(folder / "two")])
    return {file.stem: load_file(file) for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("process", ["two-0", "two-1"])
def test_loss_gradients_and_buffers_are_those_of_one_process(results, case, process):
    names = [name for name in results["one-0"] if name.startswith(f"{case}/")]
    assert sum("/gradient encoder" in name for name in names) > 50
    for name in names:
        expected, found = results["one-0"][name].double(), results[process][name].double()
        scale = expected.abs().max().clamp(min=1e-6)
        error = float((found - expected).abs().max() / scale)
        assert error < TOLERANCE, f"{name}: {error}"
