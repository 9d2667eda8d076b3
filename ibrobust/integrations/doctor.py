"""Checks of the installation, and for each problem the command that fixes it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from ibrobust.errors import IbrobustError
from ibrobust.home import HOME_VARIABLE, data_dir, home, models_dir
from ibrobust.integrations.robustbench.environment import imported_quietly

# What ibrobust can do without, and what it cannot do then.
DISPENSABLE = {
    "torchattacks": "needed for the attacks of torchattacks alone",
    "RobustBench files": "needed for RobustBench's models and benchmark alone",
    "RobustBench": "needed for RobustBench's models and benchmark alone",
    "timm": "needed for timm's models and RobustBench alone",
}
MOST_PINS = 3

OLDEST_PYTHON = (3, 10)
NEEDED_BYTES = 2**30

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


def run_checks() -> tuple[Check, ...]:
    """Return the outcomes of all checks, in reading order; none of them raises."""
    with imported_quietly():
        return tuple(_guarded(name, check) for name, check in CHECKS.items())


def main_job_can_run(checks: tuple[Check, ...]) -> bool:
    """Return whether training and attacking can run."""
    return all(check.status != "problem" for check in checks)


def check_python() -> Check:
    """Python's version."""
    detail = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        return Check("Python", "problem", detail, f"install Python {needed} or newer and ibrobust in it")
    return Check("Python", "ok", detail)


def check_torch() -> Check:
    """torch and torchvision; torchvision can be imported only if their releases match."""
    import torch
    import torchvision

    threads = torch.get_num_threads()
    return Check("torch", "ok", f"{torch.__version__}, torchvision {torchvision.__version__}, {threads} threads")


def check_cuda() -> Check:
    """Whether a GPU is available and works."""
    import torch

    if not torch.cuda.is_available():
        return Check("CUDA", "note", "torch finds no GPU: everything runs on the CPU")
    torch.ones(2, device="cuda").sum().item()  # raises if the build has no kernels for this GPU
    names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return Check("CUDA", "ok", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, CUDA {torch.version.cuda}")


def check_torchattacks() -> Check:
    """Whether torchattacks' FGSM moves an image by epsilon."""
    import torch
    import torchattacks

    with torch.random.fork_rng(devices=[]):  # the caller's random state is not changed
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    images = torch.full((1, 3, 2, 2), 0.5)
    moved = torchattacks.FGSM(model, eps=0.1)(images, torch.zeros(1, dtype=torch.int64))
    if not torch.allclose((moved - images).abs(), torch.full_like(images, 0.1), atol=1e-6):
        return _problem("torchattacks", "its FGSM does not move an image by epsilon", "torchattacks")
    return Check("torchattacks", "ok", f"{version('torchattacks')}, FGSM works")


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


def check_robustbench() -> Check:
    """Whether RobustBench can be imported and has its `benchmark`."""
    from ibrobust.integrations.robustbench.environment import adapt_robustbench, provides_pkg_resources

    adapt_robustbench()
    import robustbench

    if not callable(getattr(robustbench, "benchmark", None)):
        return _problem("RobustBench", "its function benchmark is missing", "robustbench")
    stand_in = ", with a stand-in for pkg_resources" if provides_pkg_resources() else ""
    return Check("RobustBench", "ok", f"imports, benchmark can be called{stand_in}")


def check_timm() -> Check:
    """Whether timm can download weights; only models of the form timm:NAME need this."""
    import timm  # noqa: F401  # a missing timm is none that cannot download

    from ibrobust.integrations.robustbench.environment import adapt_timm

    try:
        adapted = adapt_timm()
    except IbrobustError as error:
        problem, _, command = str(error).rpartition(": ")
        return Check("timm", "note", problem, command.rstrip("."))
    stand_in = f", adapted to huggingface_hub {version('huggingface_hub')}" if adapted else ""
    return Check("timm", "ok", f"{version('timm')}, can download{stand_in}")


def check_autoattack() -> Check:
    """The AutoAttack for RobustBench, and whether it breaks a linear model."""
    import torch

    from ibrobust.integrations.robustbench.autoattack_module import AutoAttack, real_autoattack

    genuine = real_autoattack()
    if genuine is not None:
        return Check("AutoAttack", "ok", f"the installed autoattack in {genuine}")
    # The fork preserves the caller's random state.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        linear = torch.nn.Linear(12, 4)
        linear.weight.copy_(torch.eye(4, 12))
        linear.bias.copy_(torch.tensor([0.01, 0.0, 0.0, 0.0]))  # class 0, by a small margin
    model = torch.nn.Sequential(torch.nn.Flatten(), linear).eval()
    adversary = AutoAttack(
        model,
        eps=0.1,
        seed=0,
        verbose=False,
        version="custom",
        attacks_to_run=["apgd-ce"],
        device="cpu",
    )
    adversary.apgd.n_iter = 5
    labels = torch.zeros(1, dtype=torch.int64)
    images = adversary.run_standard_evaluation(torch.full((1, 3, 2, 2), 0.5), labels)
    if not isinstance(images, torch.Tensor) or adversary.clean_accuracy(images, labels) != 0:
        return _problem("AutoAttack", "it does not break a linear model", "pyautoattack")
    return Check("AutoAttack", "ok", f"pyautoattack {version('pyautoattack')} through ibrobust's adapter, works")


def check_pins() -> Check:
    """Whether the installed packages have the versions that others want of them."""
    from ibrobust.integrations.pins import broken_pins

    broken = broken_pins()
    if not broken:
        return Check("pins", "ok", "every package has the versions that it wants")
    more = f"; and {len(broken) - MOST_PINS} more" if len(broken) > MOST_PINS else ""
    remedy = "install ibrobust into an environment of its own (python -m venv FOLDER) if another program needs these"
    return Check("pins", "note", "; ".join(broken[:MOST_PINS]) + more, remedy)


def check_data() -> Check:
    """The data sets that are available without a download."""
    folders = [data_dir(), Path("data").absolute()]
    found = [folder for folder in folders if (folder / "cifar-10-batches-py").is_dir()]
    if found:
        return Check("data", "ok", f"digits (embedded), CIFAR-10 in {found[0]}")
    detail = f"digits (embedded); no CIFAR-10 in {' or '.join(map(str, folders))}, so it would be downloaded"
    return Check("data", "note", detail)


def check_models() -> Check:
    """Whether the model folder can be written, and every card in it read."""
    from ibrobust.registry import list_models, model_card

    folder = models_dir()
    existing = _nearest_existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
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
    "CUDA": check_cuda,
    "torchattacks": check_torchattacks,
    "RobustBench files": check_robustbench_files,
    "RobustBench": check_robustbench,
    "timm": check_timm,
    "AutoAttack": check_autoattack,
    "pins": check_pins,
    "data": check_data,
    "models": check_models,
    "disk": check_disk,
}


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = {"autoattack": "pyautoattack"}.get(module, module)
        return _missing(name, f"the module {module} is not installed", f"python -m pip install {package}")
    except IbrobustError as error:
        problem, colon, command = str(error).rpartition(": ")
        if problem.endswith("is not installed"):
            return _missing(name, problem, command.rstrip("."))
        return Check(name, "problem", problem if colon else str(error), command.rstrip("."))
    except Exception as error:  # whatever a broken installation raises is what the user must see
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return _problem(name, f"{type(error).__name__}: {first}", name.split()[0].lower())


def _missing(name: str, problem: str, command: str) -> Check:
    if name in DISPENSABLE:
        return Check(name, "note", f"{problem}: {DISPENSABLE[name]}", command)
    return Check(name, "problem", problem, command)


def _problem(name: str, detail: str, package: str) -> Check:
    try:
        requirement = f"{package}=={version(package)}"
    except PackageNotFoundError:
        requirement = package
    return Check(name, "problem", detail, f"python -m pip install --force-reinstall --no-deps {requirement}")


def _nearest_existing(path: Path) -> Path:
    return next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
