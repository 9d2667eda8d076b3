"""Environments with ibrobust installed from its wheel, and commands that run in them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment and an ibrobust home of its own."""

    folder: Path
    home: Path

    @property
    def site(self) -> Path:
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.folder), "platbase": str(self.folder)}))

    @property
    def bin(self) -> Path:
        return Path(sysconfig.get_path("scripts", "venv", {"base": str(self.folder)}))

    def install(self, wheel: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--disable-pip-version-check"]
        # The environment that runs the tests is in sight for its dependencies, and may hold an ibrobust of its own.
        run([*pip, "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", str(wheel)])

    def ibrobust(self, arguments: str, *, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the installed command from a folder that has nothing to do with the checkout."""
        return run([str(self.bin / "ibrobust"), *arguments.split()], home=self.home, expect=expect)

    def python(self, code: str) -> str:
        return run([str(self.bin / "python"), "-c", code], home=self.home).stdout


def run(command: list[str], *, home: Path | None = None, expect: int = 0) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "IBROBUST_HOME")}
    folder = None
    if home is not None:
        folder = home.parent / "elsewhere"
        folder.mkdir(exist_ok=True)
        variables |= {"IBROBUST_HOME": str(home), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == expect, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def new_environment(folder: Path, *, dependencies: bool = True) -> Environment:
    """Return a new environment, by default with the packages of the one that runs the tests in sight."""
    venv.create(folder / "venv", with_pip=False)
    environment = Environment(folder / "venv", folder / "home")
    if dependencies:
        (environment.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def build(source: Path, output: Path) -> list[Path]:
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)])
    return sorted(output.iterdir())
