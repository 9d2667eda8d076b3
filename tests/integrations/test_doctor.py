"""The doctor's checks on planted troubles, and its command's exit code."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from ibrobust.cli.doctor import doctor as doctor_command
from ibrobust.errors import IbrobustError
from ibrobust.integrations import doctor
from ibrobust.integrations.doctor import Check, main_job_can_run, pins, quick, run_checks, trials
from ibrobust.integrations.robustbench import environment


def by_name(name: str) -> Check:
    return next(check for check in run_checks() if check.name == name)


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(doctor_command)
    return CliRunner().invoke(app, arguments)


def test_a_working_machine_has_no_trouble() -> None:
    checks = run_checks()
    assert [check.name for check in checks] == list(doctor.CHECKS)
    assert [check for check in checks if check.status == "problem"] == []
    assert main_job_can_run(checks)
    result = invoke()
    assert result.exit_code == 0
    assert "What ibrobust needs is installed" in result.output
    assert "ibrobust doctor --full" in result.output


def test_a_full_check_tries_each_package_and_keeps_the_others() -> None:
    checks = run_checks(full=True)
    assert {check.name for check in checks} == {*doctor.CHECKS, *trials.TRIALS}
    assert [check for check in checks if check.status == "problem"] == []
    result = invoke("--full")
    assert result.exit_code == 0
    assert "ibrobust can run" in result.output
    assert "FGSM works" in result.output


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
    found = trials.try_torchattacks()
    assert found.status == "problem"
    assert found.remedy.startswith("python -m pip install --force-reinstall --no-deps torchattacks==")


def test_an_old_python_is_a_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "OLDEST_PYTHON", (99, 0))
    assert quick.check_python().status == "problem"


def test_a_full_disk_is_a_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "NEEDED_BYTES", 2**80)
    found = quick.check_disk()
    assert found.status == "problem"
    assert found.remedy.startswith("export IBROBUST_HOME=")


def test_a_home_that_cannot_be_written_is_a_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "file" / "home"))
    assert quick.check_models().status == "problem"


def test_a_damaged_card_is_noted(registered: str, home: Path) -> None:
    (home / "models" / "broken.yaml").write_text("schema_version: 1\n")
    found = quick.check_models()
    assert found.status == "note"
    assert "ibrobust show broken" in found.remedy


@pytest.mark.parametrize(("name", "place"), [("cifar10", "cifar-10-batches-py"), ("cifar10-jpeg", "cifar10-jpeg")])
def test_a_data_set_that_is_there_is_found(name: str, place: str, home: Path) -> None:
    folder = home / "data" / place
    folder.mkdir(parents=True)
    assert quick.check_data().status == "note"  # it is empty
    (folder / "a_file").write_bytes(b"")
    assert quick.check_data() == Check("data", "ok", f"digits (embedded); {name} in {home / 'data'}")


def test_a_folder_that_no_command_reads_by_default_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/cifar-10-batches-py").mkdir(parents=True)
    Path("data/cifar-10-batches-py/test_batch").write_bytes(b"")
    assert quick.check_data().status == "note"


def test_the_checks_leave_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    run_checks(full=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_quick_check_names_what_torch_is_built_for() -> None:
    found = quick.check_torch()
    assert found.status == "ok"
    assert found.detail.startswith(f"{version('torch')}, torchvision {version('torchvision')}, built for ")
    assert found.detail.endswith(f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU")


def test_a_torchvision_of_another_torch_is_a_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "version", lambda _: "1.0")
    found = quick.check_torch()
    assert found.status == "problem"
    assert "wants torch" in found.detail
    assert found.detail.endswith("1.0 is there")
    assert found.remedy == "python -m pip install --upgrade torch torchvision"


def test_a_missing_package_is_a_trouble_only_if_the_main_job_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(quick, "version", none)
    found = {check.name: check for check in run_checks()}
    assert (found["torch"].status, found["torch"].remedy) == ("problem", "python -m pip install torch")
    assert found["AutoAttack"].status == "problem"
    assert (found["timm"].status, found["RobustBench"].status, found["torchattacks"].status) == ("note",) * 3
