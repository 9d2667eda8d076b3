"""The device that work runs on."""

from __future__ import annotations

import ctypes
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ibrobust.errors import IbrobustError
from ibrobust.suggestions import remedy

if TYPE_CHECKING:
    import torch


_RULE = "use cpu, or a GPU that torch finds."
# The kinds of device that torch can have.
KINDS = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla", "privateuseone")


def check_device_name(device: str) -> None:
    """Raise IbrobustError, with similar names, for what no torch calls a device; this does not import torch."""
    kind, colon, number = device.partition(":")
    if kind not in KINDS or (colon and not number.isdecimal()):
        hint = (
            f"did you mean cuda? {_RULE[0].upper()}{_RULE[1:]}" if kind.lower() == "gpu" else remedy(kind, KINDS, _RULE)
        )
        raise IbrobustError(f"The device {device!r} is not available: {hint}")


def gpus_in_use() -> list[int]:
    """Return the numbers of the CUDA devices whose random generators a seed would set: all, once one is in use."""
    import torch

    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []


def check_device_exists(device: str) -> None:
    """Raise IbrobustError for a device that cannot exist on this machine, as far as this is known without torch.

    `check_device` tries the others.
    """
    check_device_name(device)
    kind = device.partition(":")[0]
    if (kind == "cuda" and _no_cuda_device()) or (kind == "mps" and sys.platform != "darwin"):
        raise IbrobustError(f"The device {device!r} is not available: {_RULE}")


def built_for(kind: str) -> str | None:
    """Return the version of cuda or hip that torch was built for, read from its files; None if for neither."""
    spec = find_spec("torch")  # finds it without importing it
    source = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin is not None else None
    text = source.read_text(encoding="utf-8") if source is not None and source.is_file() else ""
    found = re.search(rf"^{kind}\b[^=]*= *'([^']+)'", text, re.MULTILINE)
    return found[1] if found else None


def _no_cuda_device() -> bool:
    if built_for("hip"):  # AMD's devices are called cuda, too
        return False
    if not built_for("cuda"):
        return True
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL("libcuda.so.1")  # which CUDA loads first
    except OSError:
        return True
    return False


def default_device() -> str:
    """Return cuda if available, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str | torch.device) -> torch.device:
    """Return the device; raise IbrobustError unless torch can use it.

    Examples:
        >>> from ibrobust.devices import check_device
        >>> check_device("cpu")
        device(type='cpu')
    """
    import torch

    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise IbrobustError(f"The device {str(device)!r} is not available: {_RULE}") from error
