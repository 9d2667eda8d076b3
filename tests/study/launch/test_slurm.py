"""Studies on a real Slurm of one node, which slurm/start.sh starts, and what is refused where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from launching import meanwhile, states, statuses

from ibrobust.errors import IbrobustError
from ibrobust.home import runs_dir
from ibrobust.registry import model_card
from ibrobust.study import expand, run_study
from ibrobust.study.launch import slurm as module
from ibrobust.study.launch.slurm import slurm_launcher
from ibrobust.study.state import CellState, write_state

SCRIPTS = Path(__file__).parent / "slurm"
# Epochs that take long enough for a test to act in one.
LONG_EPOCHS = {"dataset": "digits", "batch_size": 200}
ASK = {"partition": "cpu", "cpus": 1, "memory_gib": 1, "minutes": 30, "array": 2}


def call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Run a Slurm while this module's tests run."""
    for program in ("slurmctld", "slurmd", "munged"):
        assert shutil.which(program), f"{program} is not here: apt-get install slurm-wlm munge"
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        try:
            subprocess.run([SCRIPTS / "start.sh", folder], timeout=120, check=True, stdin=subprocess.DEVNULL)
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield folder
        finally:
            subprocess.run([SCRIPTS / "stop.sh", folder], timeout=120, check=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def launch(cluster, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.5)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[3]}:{os.environ.get('PYTHONPATH', '')}")
    return slurm_launcher(device=None, data_dir=None)


def trained_epochs(study, index: int) -> list[int]:
    """Return the epochs in a cell's metrics, once for each time that they were trained to the end."""
    lines = (runs_dir() / expand(study)[index].model / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


def array_of(study) -> str:
    return (study.folder / "slurm" / "array.txt").read_text().strip()


@pytest.mark.slurm
def test_every_cell_is_a_job_of_one_array_with_what_the_study_asks_for(make_study, launch):
    study = make_study({"objective": ["cross_entropy"], "seed": [0, 1]}, base=LONG_EPOCHS, slurm=ASK)
    seen = {}

    def look() -> None:
        seen["jobs"] = call("squeue", "--noheader", "--array", "--format=%F %K %P %C %m %l %j")

    with meanwhile(lambda: any(state.status == "running" for state in states(study)), look):
        run_study(study, launch=launch)
    assert statuses(study) == ["done", "done"]
    array = array_of(study)
    assert sorted(seen["jobs"].splitlines()) == [f"{array} {index} cpu 1 1G 30:00 ibrobust-tiny" for index in (0, 1)]


@pytest.mark.slurm
def test_a_study_with_a_cancelled_job_is_completed_by_the_next_run(make_study, launch):
    study = make_study({"objective": ["cross_entropy"], "seed": [0, 1], "epochs": [40]}, base=LONG_EPOCHS, slurm=ASK)
    cancelled_in = 0

    def cancel() -> None:
        nonlocal cancelled_in
        cancelled_in = states(study)[1].epoch
        call("scancel", f"{array_of(study)}_1")

    with meanwhile(lambda: states(study)[1].epoch > 2, cancel):
        run_study(study, launch=launch)
    assert statuses(study) == ["done", "interrupted"]
    before = model_card(expand(study)[0].model).training

    run_study(study, launch=launch)
    assert statuses(study) == ["done", "done"]
    assert trained_epochs(study, 1) == list(range(1, 41))
    second_job = (study.folder / "slurm").glob(f"{array_of(study)}*_log.out")
    assert len(list(second_job)) == 1  # the finished cell had no second job
    assert model_card(expand(study)[0].model).training == before
    assert 2 < cancelled_in < 40


@pytest.mark.slurm
def test_a_job_whose_time_is_up_goes_on_from_its_checkpoint_in_the_same_launch(make_study, launch):
    # Of so short a limit submitit thinks that it is over whenever the signal comes.
    study = make_study({"objective": ["cross_entropy"], "epochs": [20]}, base=LONG_EPOCHS, slurm={**ASK, "minutes": 5})

    def time_is_up() -> None:
        # What Slurm sends some time before the limit.
        call("scancel", "--signal=USR2", array_of(study))

    with meanwhile(lambda: states(study)[0].epoch > 2 and states(study)[0].status == "running", time_is_up):
        run_study(study, launch=launch)
    assert statuses(study) == ["done"]
    (log,) = (study.folder / "slurm").glob("*_log.err")
    assert "this job is timed-out" in log.read_text()
    assert "DUE TO JOB REQUEUE" in log.read_text()
    assert trained_epochs(study, 0) == list(range(1, 21))


@pytest.mark.slurm
def test_a_second_launch_while_jobs_are_in_the_queue_is_refused(make_study, launch):
    study = make_study({"objective": ["cross_entropy"]}, slurm=ASK)
    job = call("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 600").strip()
    (study.folder / "slurm").mkdir(parents=True)
    (study.folder / "slurm" / "array.txt").write_text(job)
    try:
        with pytest.raises(IbrobustError, match=f"still in Slurm's queue \\({job}\\)"):
            run_study(study, launch=launch)
    finally:
        call("scancel", job)


@pytest.mark.slurm
def test_a_partition_that_is_not_there_is_named(make_study, launch):
    study = make_study({"objective": ["cross_entropy"]}, slurm={**ASK, "partition": "gpu9"})
    with pytest.raises(IbrobustError, match=r"rejected the study's jobs.*invalid partition specified: gpu9"):
        run_study(study, launch=launch)


def test_a_job_that_ends_before_its_cell_starts_leaves_no_older_error(make_study, tmp_path):
    study = make_study({"objective": ["cross_entropy"]})
    (cell,) = expand(study)
    write_state(study, CellState(cell.name, "failed", error="The disk was full."))
    (tmp_path / "log.err").touch()
    job = SimpleNamespace(job_id="7_0", paths=SimpleNamespace(stderr=tmp_path / "log.err"))

    def launch(study, cells):
        for each in cells:
            module._mark_never_started(study, each, job)

    (state,) = run_study(study, launch=launch, retry_failed=True)
    assert (state.status, state.error[:26]) == ("failed", "Its job 7_0 ended before t")


def test_without_submitit_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(IbrobustError, match=r"pip install 'ibrobust\[slurm\]'"):
        slurm_launcher(device=None, data_dir=None)


def test_without_slurm_another_launcher_is_named(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(IbrobustError, match="sbatch is missing.*local"):
        slurm_launcher(device=None, data_dir=None)


def test_a_line_break_does_not_get_into_the_batch_script(make_study, monkeypatch, tmp_path):
    monkeypatch.setattr(module.shutil, "which", lambda name: "/usr/bin/sbatch")
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "ho\nme"))
    monkeypatch.setattr(module, "_submit", lambda *_, **__: pytest.fail("the jobs were submitted"))
    study = make_study({"objective": ["cross_entropy"]})
    with pytest.raises(IbrobustError, match=r"ho\\nme.* cannot be used with Slurm.*without line breaks"):
        slurm_launcher(device=None, data_dir=None)(study, expand(study))
