"""What adapts an environment, tried on planted distributions and in fresh interpreters."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest

from ibrobust.errors import IbrobustError
from ibrobust.integrations.robustbench.environment import adapt_robustbench, robustbench_files


def install(site: Path, name: str, version: str, files: dict[str, bytes], *, installer: str = "pip") -> None:
    """Lay a distribution out as an installer does, later files over earlier ones."""
    records = []
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        records.append(f"{path},sha256={digest},{len(content)}")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text(f"{installer}\n")
    (info / "RECORD").write_text("\n".join([*records, f"{info.name}/RECORD,,", ""]))


ROBUSTBENCH = {
    "robustbench/__init__.py": b"from .eval import benchmark\n",
    "robustbench/eval.py": b"benchmark = 1\n",
}
TORCHATTACKS = {
    "torchattacks/__init__.py": b"",
    "robustbench/__init__.py": b"# from .eval import benchmark\n",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty site-packages that hides the real ones of RobustBench and torchattacks."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_the_real_installation_is_examined_file_by_file() -> None:
    report = robustbench_files()
    recorded = [file for file in distribution("robustbench").files if file.hash and file.suffix != ".pyc"]
    assert report.checked == len(recorded) > 0
    assert report.overwritten == ()


def test_genuine_files_are_found_genuine(site: Path) -> None:
    install(site, "torchattacks", "3.5.1", TORCHATTACKS)
    install(site, "robustbench", "1.1.1", ROBUSTBENCH)
    report = robustbench_files()
    assert (report.version, report.checked, report.overwritten, report.changed) == ("1.1.1", 2, (), ())


def test_files_overwritten_by_torchattacks_are_named_with_the_repairing_command(site: Path) -> None:
    install(site, "robustbench", "1.1.1", ROBUSTBENCH)
    install(site, "torchattacks", "3.5.1", TORCHATTACKS)
    report = robustbench_files()
    assert report.overwritten == ("robustbench/__init__.py",)
    assert report.changed == ()
    with pytest.raises(IbrobustError) as caught:
        adapt_robustbench()
    assert "python -m pip install --force-reinstall --no-deps robustbench==1.1.1" in str(caught.value)


def test_the_repairing_command_is_of_the_installer_that_was_used(site: Path) -> None:
    install(site, "robustbench", "1.1.1", ROBUSTBENCH, installer="uv")
    assert robustbench_files().repair == "uv pip install --reinstall --no-deps robustbench==1.1.1"


def test_other_changes_are_not_blamed_on_torchattacks(site: Path) -> None:
    install(site, "torchattacks", "3.5.1", TORCHATTACKS)
    install(site, "robustbench", "1.1.1", ROBUSTBENCH)
    (site / "robustbench/eval.py").write_text("benchmark = 2  # patched by hand\n")
    report = robustbench_files()
    assert report.overwritten == ()
    assert report.changed == ("robustbench/eval.py",)


def test_a_missing_file_is_a_change(site: Path) -> None:
    install(site, "robustbench", "1.1.1", ROBUSTBENCH)
    (site / "robustbench/eval.py").unlink()
    assert robustbench_files().changed == ("robustbench/eval.py",)


def run(code: str) -> str:
    """Run code in a fresh interpreter, as the environment can be adapted only once in a process."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT_PKG_RESOURCES = """
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "pkg_resources" else find_spec(name, *rest)
"""


def test_a_present_pkg_resources_is_left_alone() -> None:
    code = """
import sys
from ibrobust.integrations.robustbench.environment import provide_pkg_resources
print(provide_pkg_resources(), "pkg_resources" in sys.modules)
"""
    assert run(code).split() == ["False", "False"]


def test_robustbench_fails_bare_and_works_adapted_with_its_files_untouched() -> None:
    files = sorted(Path(sysconfig.get_path("purelib"), "robustbench").rglob("*.py"))
    before = [file.read_bytes() for file in files]
    code = """
try:
    import robustbench
except ModuleNotFoundError as error:
    print(error.name)
from ibrobust.integrations.robustbench.environment import adapt_robustbench
adapt_robustbench()
adapt_robustbench()
import robustbench
print(robustbench.benchmark.__name__, robustbench.eval.AutoAttack.__module__)
import pkg_resources
resource = "helper_files/imagenet_test_image_ids.txt"
print(open(pkg_resources.resource_filename("robustbench.loaders", resource)).readline()[:2])
"""
    found = run(WITHOUT_PKG_RESOURCES + code).split()
    assert found == ["pkg_resources", "benchmark", "ibrobust.integrations.robustbench.autoattack_module", "n0"]
    assert len(before) > 30
    assert [file.read_bytes() for file in files] == before
