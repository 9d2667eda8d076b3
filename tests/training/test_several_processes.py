"""One training in two gloo processes against the same in one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from ibrobust.registry import model_card
from ibrobust.training.metrics_log import read_records
from ibrobust.training.trainer import train_encoder

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
BASE = {
    "dataset": "digits",
    "width": 2,
    "latent_dim": 8,
    "batch_size": 100,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "mixed_precision": "no",
}
PLAIN = {"objective": "knn_ib", "num_neighbors": 3, "soft_share": 0.0, "memory_size": 0}
CASES = {
    "knn_ib": {**PLAIN, "fixed_power": False},
    "knn_ib with a memory": {**PLAIN, "memory_size": 150},
    "soft_ib with a memory": {"objective": "soft_ib", "memory_size": 150, "fixed_power": False},
    "fixed power": PLAIN,
    "cross_entropy with dropconnect": {"objective": "cross_entropy", "dropconnect": 0.5},
    "dvib": {"objective": "dvib", "num_samples": 2},
    "ceb": {"objective": "ceb"},
    "dib": {"objective": "dib"},
    "adversarial with dropout": {"objective": "adversarial", "dropout": 0.5},
}
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
    *("--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no", "-m"),
]
TINY = [
    *(
        "--dataset=digits",
        "--width=2",
        "--latent-dim=8",
        "--decoder=logistic",
        "--schedule=one_cycle",
        "--mixed-precision=no",
        "--batch-size=100",
    ),
    "--device=cpu",
]
TOLERANCE = 1e-7  # in units of a tensor's largest value


def run(command: list[str], *, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    paths = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stderr[-4000:]
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


def test_two_processes_make_one_model_as_one_process_does(tmp_path, monkeypatch):
    homes = {name: tmp_path / name for name in ("one", "two")}
    options = ["train", *TINY, "--epochs", "2", "--name", "tiny"]
    launched = run([*ACCELERATE, "ibrobust", *options], IBROBUST_HOME=str(homes["two"]))
    run([sys.executable, "-m", "ibrobust", *options], IBROBUST_HOME=str(homes["one"]))

    assert launched.stdout.count("clean accuracy") == 1
    assert launched.stderr.count("tiny: epoch 2/2") == 1
    names = [sorted(re.sub("-[0-9a-f]{12}", "", file.name) for file in homes[name].rglob("*.*")) for name in homes]
    expected = ["images.json", "metrics.jsonl", "recipe.yaml", "tiny.safetensors", "tiny.yaml"]
    assert names[0] == names[1] == expected
    cards, records = [], []
    for folder in homes.values():
        monkeypatch.setenv("IBROBUST_HOME", str(folder))
        cards.append(model_card("tiny"))
        records.append(read_records(folder / "runs/tiny/metrics.jsonl"))
    assert cards[0].recipe == cards[1].recipe
    assert [len(each) for each in records] == [2, 2]
    # Rounding differs, and what it does to the choice of neighbours grows with every step.
    assert records[1][0]["loss"] == pytest.approx(records[0][0]["loss"], rel=1e-2)


STOPPED = """
import sys
from pathlib import Path
from ibrobust.data import load_dataset
from ibrobust.training.recipe import Recipe
from ibrobust.training.trainer import train_encoder

def stop(epoch, encoder):
    if epoch == 2:
        sys.exit("stopped")

recipe = Recipe.from_yaml(sys.argv[1])
train_encoder(recipe, load_dataset(recipe.dataset), Path(sys.argv[2]), device="cpu", on_epoch=stop)
"""


def test_one_process_resumes_what_two_have_begun(tiny_recipe, digits, tmp_path):
    (tmp_path / "program.py").write_text(STOPPED)
    tiny_recipe.to_yaml(tmp_path / "recipe.yaml")
    program = [str(tmp_path / "program.py"), str(tmp_path / "recipe.yaml"), str(tmp_path / "run")]
    run([*TORCHRUN, *program], code=1)
    before = read_records(tmp_path / "run/metrics.jsonl")
    trained = train_encoder(tiny_recipe, digits, tmp_path / "run", device="cpu", resume=True)
    assert [record["epoch"] for record in trained.history] == [1, 2, 3]
    assert trained.history[:1] == before


def test_a_batch_that_cannot_be_divided_is_refused_once(tmp_path):
    options = ["train", *TINY, "--batch-size", "201", "--name", "tiny"]
    done = run([*ACCELERATE, "ibrobust", *options], code=1, IBROBUST_HOME=str(tmp_path))
    assert done.stderr.count("Error: A batch of 201 cannot be divided equally among 2 processes") == 1
    assert not (tmp_path / "runs").exists()
