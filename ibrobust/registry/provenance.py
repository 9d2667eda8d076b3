"""Library versions and hardware behind a number."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "ibrobust",
    "torch",
    "torchvision",
    "torchattacks",
    "robustbench",
    "accelerate",
    "scikit-learn",
    "numpy",
)


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries behind a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware(device_type: str = "cpu") -> str:
    """Return the processor's name, with the number of threads or of GPUs."""
    import torch

    if device_type == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''} of {os.cpu_count()} cores"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
