"""The suite runs in parallel, one thread per process; every test has its own home for models, runs and data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
MOST_PROCESSES = 8  # each needs a gigabyte or more

# These start first, the longest of all ahead, so that no process is left with a long file at the end.
LONGEST_FILES = (
    "study/launch/test_local.py",
    "training/test_several_processes.py",
    "study/test_run.py",
    "evaluation/test_audit_awkward_models.py",
    "evaluation/test_audit.py",
    "registry/test_registry.py",
    "evaluation/attacks/test_run.py",
    "evaluation/test_worst_case_attack.py",
    "training/test_trainer.py",
    "cli/test_commands.py",
)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported, and for every process that a test starts: more threads than cores slow each other down.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in one process per core, and named files in this process; -n says otherwise.

    The tests of a file stay in one process, so that they share fixtures.
    """
    in_worker = "PYTEST_XDIST_WORKER" in os.environ
    if in_worker or not config.pluginmanager.hasplugin("xdist") or config.option.file_or_dir:
        return
    if config.option.numprocesses is None:
        config.option.numprocesses = "logical"
        config.option.maxprocesses = config.option.maxprocesses or MOST_PROCESSES
    if config.option.dist == "no":
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False  # xdist would start the files with the most tests first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {FOLDER / file: place for place, file in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("IBROBUST_HOME", str(folder))
    return folder
