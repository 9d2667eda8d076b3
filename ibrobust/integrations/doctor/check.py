"""The outcome of one check of the installation, and how an error becomes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from ibrobust.errors import IbrobustError

# What ibrobust can do without, and what it cannot do then.
DISPENSABLE = {
    "torchattacks": "needed for the attacks of torchattacks alone",
    "RobustBench files": "needed for RobustBench's models and benchmark alone",
    "RobustBench": "needed for RobustBench's models and benchmark alone",
    "timm": "needed for timm's models and RobustBench alone",
}

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: of the checked part.
        status: ``ok``; ``problem``, which prevents training, attacking or benchmarking; or ``note``, which does not.
        detail: the finding.
        remedy: the command that fixes the problem; empty if none is needed.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """Return the outcome of a check, or what it raised as a problem; it never raises."""
    try:
        return check()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = {"autoattack": "pyautoattack"}.get(module, module)
        return missing(name, f"the module {module} is not installed", f"python -m pip install {package}")
    except IbrobustError as error:
        said, colon, command = str(error).rpartition(": ")
        if said.endswith("is not installed"):
            return missing(name, said, command.rstrip("."))
        return Check(name, "problem", said if colon else str(error), command.rstrip("."))
    except Exception as error:  # whatever a broken installation raises is what the user must see
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return problem(name, f"{type(error).__name__}: {first}", name.split()[0].lower())


def missing(name: str, detail: str, command: str) -> Check:
    """Return the outcome for a package that is not installed: a note if ibrobust can do without it."""
    if name in DISPENSABLE:
        return Check(name, "note", f"{detail}: {DISPENSABLE[name]}", command)
    return Check(name, "problem", detail, command)


def problem(name: str, detail: str, package: str) -> Check:
    """Return the outcome of a check that failed, with the command that installs the package again."""
    try:
        requirement = f"{package}=={version(package)}"
    except PackageNotFoundError:
        requirement = package
    return Check(name, "problem", detail, f"python -m pip install --force-reinstall --no-deps {requirement}")
