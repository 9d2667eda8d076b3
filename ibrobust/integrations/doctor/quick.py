"""Checks that import none of the packages: what is installed, in which version, and whether files can be written."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ibrobust.devices import built_for
from ibrobust.errors import IbrobustError
from ibrobust.home import HOME_VARIABLE, data_dir, home, models_dir, require_writable_folder
from ibrobust.integrations.doctor.check import Check

MOST_PINS = 3

OLDEST_PYTHON = (3, 10)
NEEDED_BYTES = 2**30

# Of the data sets of the shipped recipes and models.
DATA_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar10-jpeg": "cifar10-jpeg"}


def check_python() -> Check:
    """Python's version."""
    detail = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        return Check("Python", "problem", detail, f"install Python {needed} or newer and ibrobust in it")
    return Check("Python", "ok", detail)


def check_torch() -> Check:
    """torch's and torchvision's versions, which must match, and the processor or CUDA version that torch is built for.

    Raises:
        ModuleNotFoundError: one is not installed.
    """
    from ibrobust.integrations.doctor.pins import broken_pins_of

    versions = {name: _version(name) for name in ("torch", "torchvision")}
    if broken := broken_pins_of("torchvision", ["torch"]):
        return Check("torch", "problem", "; ".join(broken), "python -m pip install --upgrade torch torchvision")
    cuda = built_for("cuda")
    built = f", built for CUDA {cuda}" if cuda else ", built for the CPU"
    return Check("torch", "ok", f"{versions['torch']}, torchvision {versions['torchvision']}{built}")


def check_package(name: str, package: str) -> Check:
    """Whether a package is installed, and its version.

    Raises:
        ModuleNotFoundError: it is not.
    """
    found = _version(package)
    return Check(name, "ok", found if name.lower() == package else f"{package} {found}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise ModuleNotFoundError(package, name=package) from None


def check_robustbench_files() -> Check:
    """Whether RobustBench's files are its own."""
    from ibrobust.integrations.robustbench.environment import robustbench_files

    files = robustbench_files()
    name = "RobustBench files"
    if files.checked == 0:
        return Check(name, "note", f"{files.version}, installed without recorded hashes: cannot be compared")
    if files.overwritten:
        detail = f"{len(files.overwritten)} of {files.checked} overwritten by torchattacks' old copy"
        return Check(name, "problem", detail, files.repair)
    if files.changed:
        detail = f"{len(files.changed)} of {files.checked} changed since installation: {files.changed[0]}"
        return Check(name, "note", f"{detail}{', ...' if len(files.changed) > 1 else ''}", files.repair)
    return Check(name, "ok", f"{files.version}, genuine ({files.checked} files compared)")


def check_pins() -> Check:
    """Whether the installed packages have the versions that others want of them."""
    from ibrobust.integrations.doctor.pins import broken_pins

    broken = broken_pins()
    if not broken:
        return Check("pins", "ok", "every package has the versions that it wants")
    more = f"; and {len(broken) - MOST_PINS} more" if len(broken) > MOST_PINS else ""
    remedy = "install ibrobust into an environment of its own (python -m venv FOLDER) if another program needs these"
    return Check("pins", "note", "; ".join(broken[:MOST_PINS]) + more, remedy)


def check_data() -> Check:
    """The data sets that are available without a download, where every command looks for them by default."""
    folder = data_dir()
    there = [name for name, place in DATA_FOLDERS.items() if _holds_files(folder / place)]
    if there:
        return Check("data", "ok", f"digits (embedded); {' and '.join(there)} in {folder}")
    missing = " nor ".join(DATA_FOLDERS)
    return Check("data", "note", f"digits (embedded); neither {missing} in {folder}, so they would be downloaded")


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def check_models() -> Check:
    """Whether the model folder can be written, and every card in it read."""
    from ibrobust.registry import list_models, model_card

    folder = models_dir()
    try:
        require_writable_folder(folder)
    except IbrobustError:
        remedy = f"export {HOME_VARIABLE}=FOLDER, with a folder that you can write to"
        return Check("models", "problem", f"{folder} cannot be written", remedy)
    damaged = []
    names = list_models()
    for name in names:
        try:
            model_card(name)
        except IbrobustError:
            damaged.append(name)
    if damaged:
        remedy = f"ibrobust show {damaged[0]} shows what is wrong"
        return Check("models", "note", f"{len(damaged)} of {len(names)} cards in {folder} are damaged", remedy)
    return Check("models", "ok", f"{len(names)}, your own in {folder}")


def check_disk() -> Check:
    """Free space on the disk of models, runs and data."""
    free = shutil.disk_usage(_nearest_existing(home())).free
    detail = f"{free / 2**30:.1f} GiB free for {home()}"
    if free < NEEDED_BYTES:
        return Check("disk", "problem", detail, f"export {HOME_VARIABLE}=FOLDER, with a folder on a larger disk")
    return Check("disk", "ok", detail)


CHECKS: dict[str, Callable[[], Check]] = {
    "Python": check_python,
    "torch": check_torch,
    "torchattacks": partial(check_package, "torchattacks", "torchattacks"),
    "RobustBench files": check_robustbench_files,
    "RobustBench": partial(check_package, "RobustBench", "robustbench"),
    "timm": partial(check_package, "timm", "timm"),
    "AutoAttack": partial(check_package, "AutoAttack", "pyautoattack"),
    "pins": check_pins,
    "data": check_data,
    "models": check_models,
    "disk": check_disk,
}


def _nearest_existing(path: Path) -> Path:
    return next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
