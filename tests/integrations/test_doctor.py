"""The doctor's checks on planted troubles, and its command's exit code."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from ibrobust.cli.doctor import doctor as doctor_command
from ibrobust.errors import IbrobustError
from ibrobust.integrations import doctor
from ibrobust.integrations.doctor import Check, main_job_can_run, run_checks
from ibrobust.integrations.robustbench import environment


def by_name(name: str) -> Check:
    return next(check for check in run_checks() if check.name == name)


def invoke() -> Any:
    app = typer.Typer()
    app.command()(doctor_command)
    return CliRunner().invoke(app, [])


def test_a_working_machine_has_no_trouble() -> None:
    checks = run_checks()
    assert [check.name for check in checks] == list(doctor.CHECKS)
    assert [check for check in checks if check.status == "problem"] == []
    assert main_job_can_run(checks)
    result = invoke()
    assert result.exit_code == 0
    assert "ibrobust can run" in result.output


def test_overwritten_files_are_a_trouble_with_the_repairing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    report = environment.InstalledFiles("1.1.1", 61, ("robustbench/__init__.py",), (), "python -m pip install it")
    monkeypatch.setattr(environment, "robustbench_files", lambda: report)
    found = by_name("RobustBench files")
    assert (found.status, found.remedy) == ("problem", "python -m pip install it")
    result = invoke()
    assert result.exit_code == 1
    assert "RobustBench files: python -m pip install it" in result.output
    assert "ibrobust cannot run yet" in result.output


def test_files_changed_by_hand_are_only_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    report = environment.InstalledFiles("1.1.1", 61, (), ("robustbench/eval.py",), "python -m pip install it")
    monkeypatch.setattr(environment, "robustbench_files", lambda: report)
    found = by_name("RobustBench files")
    assert found.status == "note"
    assert "robustbench/eval.py" in found.detail


def fails(error: Exception) -> Any:
    def check() -> Check:
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "detail", "remedy"),
    [
        (
            ModuleNotFoundError("No module named 'torchattacks.x'", name="torchattacks.x"),
            "the module torchattacks is not installed",
            "python -m pip install torchattacks",
        ),
        (
            ImportError("libcudart.so: cannot open shared object file\nmore"),
            "ImportError: libcudart.so: cannot open shared object file",
            f"python -m pip install --force-reinstall --no-deps torch=={version('torch')}",
        ),
        (
            IbrobustError("RobustBench is not installed: pip install robustbench."),
            "RobustBench is not installed",
            "pip install robustbench",
        ),
    ],
)
def test_whatever_a_check_raises_becomes_a_trouble(
    monkeypatch: pytest.MonkeyPatch, error: Exception, detail: str, remedy: str
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"torch": fails(error)})
    assert run_checks() == (Check("torch", "problem", detail, remedy),)


def test_an_fgsm_that_does_not_move_is_a_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchattacks.FGSM", lambda *_, **__: lambda images, _: images)
    found = doctor.check_torchattacks()
    assert found.status == "problem"
    assert found.remedy.startswith("python -m pip install --force-reinstall --no-deps torchattacks==")


def test_an_old_python_is_a_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    assert doctor.check_python().status == "problem"


def test_a_full_disk_is_a_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 2**80)
    found = doctor.check_disk()
    assert found.status == "problem"
    assert found.remedy.startswith("export IBROBUST_HOME=")


def test_a_home_that_cannot_be_written_is_a_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "file" / "home"))
    assert doctor.check_models().status == "problem"


def test_a_damaged_card_is_noted(registered: str, home: Path) -> None:
    (home / "models" / "broken.yaml").write_text("schema_version: 1\n")
    found = doctor.check_models()
    assert found.status == "note"
    assert "ibrobust show broken" in found.remedy


def test_cifar10_that_is_there_is_found(home: Path) -> None:
    (home / "data" / "cifar-10-batches-py").mkdir(parents=True)
    found = doctor.check_data()
    assert (found.status, str(home) in found.detail) == ("ok", True)


def test_the_checks_leave_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    run_checks()
    assert torch.equal(torch.get_rng_state(), state)
