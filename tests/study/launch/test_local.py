"""Cells in processes of their own: run, killed, interrupted, orphaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from launching import is_alive, meanwhile, process_of, states, statuses, wait_until

from ibrobust.study import expand, gather_records, prepare_study, run_cell, run_study
from ibrobust.study.launch import local as module
from ibrobust.study.launch.local import local_launcher
from ibrobust.study.state import CellState, cell_folder, write_state

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes under /proc")

# More epochs than a test waits for.
LONG = {"epochs": 3000}


def launch_on_the_command_line(study, folder: Path, *, jobs: int) -> subprocess.Popen:
    file = folder / "study.yaml"
    file.write_text(study.to_text())
    command = [sys.executable, "-m", "ibrobust", "study", "run", str(file), "--launcher", "local", "--jobs", str(jobs)]
    # Tests that were started in the background hand on an interrupt that is ignored.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=listen)


def all_train(study) -> bool:
    return all(state.status == "running" and state.epoch > 0 for state in states(study))


@pytest.fixture
def one_thread():
    """Sums are rounded differently by different numbers of threads, and launchers divide the threads there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CELLS = (
    {"objective": ["cross_entropy"], "epochs": [3000]},
    {"objective": ["cross_entropy"], "seed": [0, 1]},
    {"objective": ["cross_entropy"], "optimizer": ["sgd"], "learning_rate": [1e38]},
)


def numbers(study, cell: str) -> pd.DataFrame:
    """Return the records of a cell that do not depend on the time of day."""
    table = pd.read_csv(gather_records(study))
    table = table[table.cell == cell]
    return table[table.quantity != "seconds_per_epoch"].reset_index(drop=True)


@pytest.fixture(scope="module")
def launched(make_study, tmp_path_factory):
    """A study of four cells in processes of their own, of which the first is killed; its folder is kept."""
    study = make_study(*CELLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IBROBUST_HOME", str(tmp_path_factory.mktemp("home")))

        def first_trains() -> bool:
            return states(study)[0].epoch > 0 and states(study)[0].status == "running"

        def kill() -> None:
            os.kill(process_of(study, 0), signal.SIGKILL)

        with meanwhile(first_trains, kill):
            run_study(study, launch=local_launcher(jobs=2, device="cpu", data_dir=None))
        cells = [cell.name for cell in expand(study)]
        tables = {name: numbers(study, name) for name in cells[1:3]}
        return states(study), tables, (cell_folder(study, cells[-1]) / "output.txt").read_text()


@pytest.mark.usefixtures("one_thread")
def test_cells_in_processes_of_their_own_give_the_numbers_of_one_process(launched, make_study):
    of_processes, tables, _ = launched
    assert [state.status for state in of_processes[1:3]] == ["done", "done"]
    study = make_study(*CELLS)
    prepare_study(study)
    for cell, table in tables.items():
        run_cell(study, cell, device="cpu")
        pd.testing.assert_frame_equal(table, numbers(study, cell))


def test_a_process_that_dies_fails_its_cell_and_the_others_go_on(launched):
    killed, *others = launched[0]
    assert [state.status for state in (killed, *others)] == ["failed", "done", "done", "failed"]
    assert "Its process was ended by SIGKILL" in killed.error


def test_a_process_that_dies_before_its_first_state_leaves_no_older_error(make_study, monkeypatch):
    study = make_study({"objective": ["cross_entropy"], "seed": [0]})
    (cell,) = expand(study)
    write_state(study, CellState(cell.name, "failed", error="The disk was full."))
    dies = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(module, "_start", lambda *_, **__: subprocess.Popen(dies, stdin=subprocess.PIPE))
    (state,) = run_study(study, launch=local_launcher(jobs=1, device="cpu", data_dir=None), retry_failed=True)
    assert state.status == "failed"
    assert state.error.startswith("Its process was ended by SIGKILL")


def test_a_cell_that_fails_has_its_own_sentence_and_its_traceback_kept(launched):
    (*_, failed), _, output = launched
    assert failed.status == "failed"
    assert "The loss was not finite" in failed.error
    assert "Traceback" in output


def test_an_interrupt_ends_the_processes_and_the_study_can_go_on(make_study, tmp_path):
    study = make_study({"objective": ["cross_entropy"], "seed": [0, 1]}, base=LONG)
    launcher = launch_on_the_command_line(study, tmp_path, jobs=2)
    try:
        wait_until(lambda: all_train(study))
        processes = [process_of(study, index) for index in range(2)]
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(timeout=120) == 130
    finally:
        launcher.kill()
        launcher.wait()
    assert not any(is_alive(process) for process in processes)
    assert statuses(study) == ["interrupted", "interrupted"]


def test_processes_end_when_their_launcher_is_killed(make_study, tmp_path):
    study = make_study({"objective": ["cross_entropy"], "seed": [0]}, base=LONG)
    launcher = launch_on_the_command_line(study, tmp_path, jobs=1)
    try:
        wait_until(lambda: all_train(study))
        process = process_of(study, 0)
    finally:
        launcher.kill()
        launcher.wait()
    wait_until(lambda: not is_alive(process))
    assert statuses(study) == ["interrupted"]


@pytest.mark.parametrize(("jobs", "threads"), [(1, "8"), (3, "2"), (16, "1")])
def test_threads_are_divided_among_the_processes(make_study, monkeypatch, jobs, threads):
    given = []

    def refuse(command, *, env, **options):
        given.append(env["OMP_NUM_THREADS"])
        raise OSError("no process today")

    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(module.subprocess, "Popen", refuse)
    study = make_study({"objective": ["cross_entropy"], "seed": [0]})
    with pytest.raises(OSError, match="no process today"):
        local_launcher(jobs=jobs, device="cpu", data_dir=None)(study, expand(study))
    assert given == [threads]
