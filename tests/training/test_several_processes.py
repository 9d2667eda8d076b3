"""One training in two gloo processes against the same in one: two launches, with as much in each as goes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_digits import small_digits, write
from torch import Tensor
from two_processes import all_results

from ibrobust.cli.main import main
from ibrobust.data import Dataset, load_dataset
from ibrobust.registry import model_card
from ibrobust.training.metrics_log import read_records
from ibrobust.training.recipe import Recipe
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
ALL_FIELDS = {name: {**BASE, **fields} for name, fields in CASES.items()}
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
    *("--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"),
]
TINY = [
    *("--width=2", "--latent-dim=8", "--decoder=logistic", "--schedule=one_cycle", "--mixed-precision=no"),
    "--num-neighbors=3",
    *("--epochs=2", "--device=cpu", "--name=tiny"),
]
# Arguments: the folder of a home for each batch size, then options.
TRAIN_TWICE = """
import os, runpy, sys
folder, *options = sys.argv[1:]
for size in "201", "100":
    os.environ["IBROBUST_HOME"] = f"{folder}/{size}"
    sys.argv = ["ibrobust", "train", *options, f"--batch-size={size}"]
    try:
        runpy.run_module("ibrobust", run_name="__main__")
    except SystemExit as stop:
        print(f"{size} ends with {stop.code}.", flush=True)
"""
TOLERANCE = 1e-7  # in units of a tensor's largest value


def run(command: list[str], *, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    paths = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "digits.npz"
    write(small_digits(), file)
    return file


@pytest.fixture(scope="module")
def data(data_file: Path) -> Dataset:
    return load_dataset(str(data_file))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Trains for three epochs, with noise and augmentation."""
    return Recipe.model_validate({**BASE, **CASES["knn_ib with a memory"], "schedule": "one_cycle", "epochs": 3})


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, data_file: Path, recipe: Recipe) -> Path:
    """The folder of what two processes have computed, and of the run that they were stopped in."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "cases.json").write_text(json.dumps(ALL_FIELDS))
    recipe.to_yaml(folder / "recipe.yaml")
    files = (data_file, folder / "cases.json", folder / "two", folder / "recipe.yaml", folder / "run")
    run([*TORCHRUN, str(ROOT / "tests/helpers/two_processes.py"), *map(str, files)], code=1)
    return folder


@pytest.fixture(scope="module")
def results(stopped: Path, data: Dataset) -> dict[str, dict[str, Tensor]]:
    """What one process has, and the first and second of two."""
    return {"one": all_results(ALL_FIELDS, data)} | {file.stem: load_file(file) for file in stopped.glob("two-*")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("process", ["two-0", "two-1"])
def test_loss_gradients_and_buffers_are_those_of_one_process(results, case, process):
    names = [name for name in results["one"] if name.startswith(f"{case}/")]
    assert sum("/gradient encoder" in name for name in names) > 50
    for name in names:
        expected, found = results["one"][name].double(), results[process][name].double()
        scale = expected.abs().max().clamp(min=1e-6)
        error = float((found - expected).abs().max() / scale)
        assert error < TOLERANCE, f"{name}: {error}"


def test_one_process_resumes_what_two_have_begun(stopped, recipe, data):
    before = read_records(stopped / "run/metrics.jsonl")
    trained = train_encoder(recipe, data, stopped / "run", device="cpu", resume=True)
    assert [record["epoch"] for record in trained.history] == [1, 2, 3]
    assert trained.history[:1] == before


@pytest.fixture(scope="module")
def launched(
    tmp_path_factory: pytest.TempPathFactory, data_file: Path
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What accelerate's two processes printed, and the folder of their two homes, 201 and 100."""
    folder = tmp_path_factory.mktemp("accelerate")
    (folder / "program.py").write_text(TRAIN_TWICE)
    return run([*ACCELERATE, str(folder / "program.py"), str(folder), *TINY, f"--dataset={data_file}"]), folder


def test_two_processes_make_one_model_as_one_process_does(launched, data_file, tmp_path, monkeypatch):
    done, folder = launched
    homes = {"one": tmp_path, "two": folder / "100"}
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["ibrobust", "train", *TINY, f"--dataset={data_file}", "--batch-size=100"])
    with pytest.raises(SystemExit, match="0"):
        main()

    assert done.stdout.count("100 ends with 0.") == 2
    assert done.stdout.count("clean accuracy") == 1
    assert done.stderr.count("tiny: epoch 2/2") == 1
    names = [sorted(re.sub("-[0-9a-f]{12}", "", file.name) for file in homes[name].rglob("*.*")) for name in homes]
    expected = ["metrics.jsonl", "recipe.yaml", "run.json", "tiny.safetensors", "tiny.yaml"]
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


def test_a_batch_that_cannot_be_divided_is_refused_once(launched):
    done, folder = launched
    assert done.stdout.count("201 ends with 2.") == 2
    assert done.stderr.count("Error: A batch of 201 cannot be divided equally among 2 processes") == 1
    assert not (folder / "201/runs").exists()
