"""Library versions and hardware behind a number."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ibrobust import processes

if TYPE_CHECKING:
    import torch

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


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor with its threads; several processes are counted.

    Each process uses one GPU, however many it can see.
    """
    import torch

    count = processes.count()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{count} x {name}" if count > 1 else name
    threads = torch.get_num_threads()
    used = f"{_processor()}, {threads} thread{'s' if threads > 1 else ''} of {os.cpu_count()} cores"
    return f"{used}, {count} processes" if count > 1 else used


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
