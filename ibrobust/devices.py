"""The device that work runs on."""

from __future__ import annotations

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
        raise IbrobustError(f"The device {device!r} is not available: {remedy(kind, KINDS, _RULE)}")


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
    except (RuntimeError, AssertionError) as error:
        raise IbrobustError(f"The device {str(device)!r} is not available: {_RULE}") from error
