"""`ibrobust study`, as a user calls it."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from ibrobust import devices
from ibrobust.cli.study import run as run_command
from ibrobust.errors import IbrobustError
from ibrobust.registry import copy_model, list_models

STUDY = {
    "name": "mine",
    "title": "My own",
    "base": {
        "width": 2,
        "latent_dim": 8,
        "batch_size": 100,
        "epochs": 1,
        "augment": "none",
        "decoders": ["logistic"],
        "num_neighbors": 3,
        "memory_size": 150,
    },
    "grids": [{"objective": ["knn_ib"], "beta": [0.0, 0.1]}],
    "evaluations": {"sweep": {"eps": ["8/255"], "n_examples": 20}},
    "figures": ["fgsm", "generalization"],
}


@pytest.fixture
def write(tmp_path, small_digits_file):
    def write(**fields: object) -> str:
        path = tmp_path / "mine.yaml"
        study = {**STUDY, **fields}
        study["base"] = {"dataset": small_digits_file, **study["base"]}
        path.write_text(yaml.safe_dump(study))
        return str(path)

    return write


def test_a_study_is_run_drawn_and_told_of(run, write, home):
    file = write()
    finished = run("study", "run", file)
    assert finished.returncode == 0, finished.stderr
    assert "2 done" in finished.stdout
    assert "knn_ib-beta0.1: done" in finished.stderr
    folder = home / "studies" / "mine"
    assert set(pd.read_csv(folder / "records.csv").cell) == {"knn_ib-beta0", "knn_ib-beta0.1"}
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    assert figures == ["fgsm.png", "fgsm.svg", "generalization.png", "generalization.svg"]
    assert list_models("mine-*") == ["mine-knn_ib-beta0", "mine-knn_ib-beta0.1"]

    # Nothing is left to do.
    again = run("study", "run", file)
    assert again.returncode == 0
    assert "running" not in again.stderr

    # Figures and report come from the records alone, by the study's name or its file.
    for path in (home / "models").iterdir():
        path.unlink()
    for path in (folder / "figures").iterdir():
        path.unlink()
    drawn = run("study", "figures", "mine")
    assert drawn.returncode == 0, drawn.stderr
    assert sorted(path.name for path in (folder / "figures").iterdir()) == figures
    told = run("study", "report", file, "--out", "report.html")
    assert told.returncode == 0, told.stderr
    shown = run("study", "status", "mine")
    assert shown.returncode == 0
    assert "2 done" in shown.stdout


def test_a_cell_whose_model_was_replaced_is_outdated_and_left_out(run, mine, home, tmp_path):
    file = tmp_path / "given.yaml"
    models = {"name": "given", "base": {"dataset": "digits"}, "models": ["mine", "knn_ib-digits"], "figures": ["fgsm"]}
    file.write_text(yaml.safe_dump({**models, "evaluations": {"sweep": {"eps": ["8/255"], "n_examples": 4}}}))
    assert run("study", "run", str(file)).returncode == 0
    (home / "models" / "mine.yaml").unlink()
    copy_model("cross_entropy-digits", "mine")
    assert "1 done, 1 outdated" in run("study", "status", "given").stdout
    for command in ("figures", "report"):
        told = run("study", command, "given")
        assert told.returncode == 0
        assert "Note: mine is left out. The model or a surrogate was replaced" in told.stderr
        assert set(pd.read_csv(home / "studies" / "given" / "records.csv").model) == {"knn_ib-digits"}


def test_the_status_of_a_study_that_was_not_run(run, write, home):
    finished = run("study", "status", write())
    assert finished.returncode == 0
    assert "2 waiting" in finished.stdout
    assert not home.exists()


def test_a_failed_cell_is_listed_at_the_end(run, write):
    file = write(grids=[{"objective": ["cross_entropy"], "learning_rate": [1e30, 0.003]}], figures=["fgsm"])
    finished = run("study", "run", file)
    assert finished.returncode == 1
    assert "1 done, 1 failed" in finished.stdout
    (line,) = [line for line in finished.stdout.splitlines() if line.startswith("Failed: ")]
    assert "learning_rate1e_30: " in line
    assert "not finite" in line
    assert "Traceback" not in finished.stderr
    assert run("study", "run", file).returncode == 1


def refused(run, arguments: list[str], *expected: str) -> None:
    finished = run(*arguments)
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    for part in expected:
        assert part in finished.stderr


def test_an_unknown_study(run):
    for command in ("run", "status", "figures", "report"):
        refused(run, ["study", command, "figure9"], "Unknown study 'figure9'", "figure1-demo")


def test_a_changed_study(run, write, home):
    assert run("study", "run", write(figures=[], evaluations={}, grids=[{"beta": [0.1]}])).returncode == 0
    refused(
        run, ["study", "run", write(figures=[], evaluations={})], "another study 'mine'", "with other grids", "--name"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "no/such/folder"], "no/such/folder"),
        (["--device", "cuda:7"], "device 'cuda:7' is not available"),
        (["--launcher", "ssh"], "Unknown launcher 'ssh'"),
        (["--name", "a b"], "The study name 'a b' is not a safe file name: choose another name"),
        (["--jobs", "0"], "--jobs"),
        (["--jobs", "3"], "--jobs 3 needs --launcher local"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_made(run, write, home, arguments, said):
    refused(run, ["study", "run", write(), *arguments], said)
    assert not (home / "studies").exists()


def test_a_wrong_cell_is_said_before_anything_is_made(run, write, home):
    refused(run, ["study", "run", write(grids=[{"beta": [0.1, 2.0]}])], "with beta 2.0 is invalid")
    assert not home.exists()


@pytest.mark.parametrize("command", ["figures", "report"])
def test_figures_before_any_cell_is_done(run, write, home, command):
    refused(run, ["study", command, write()], "No cell of the study 'mine' is finished", "ibrobust study run")
    assert not home.exists()


@pytest.mark.parametrize(("launcher", "said"), [("slurm", "^started$"), ("serial", "'cuda' is not available")])
def test_only_a_slurm_job_may_need_a_device_that_this_machine_lacks(write, monkeypatch, launcher, said):
    def start(*arguments, **options):
        raise IbrobustError("started")

    monkeypatch.setattr(devices, "_no_cuda_device", lambda: True)
    monkeypatch.setattr("ibrobust.study.launch.launchers.choose_launcher", start)
    settings = {"dataset": None, "name": None, "jobs": 1, "retry_failed": False, "data_dir": None}
    with pytest.raises(IbrobustError, match=said):
        run_command(write(), launcher=launcher, device="cuda", **settings)
