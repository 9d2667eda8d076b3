"""The device that work runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.errors import IbrobustError

if TYPE_CHECKING:
    import torch


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
        raise IbrobustError(
            f"The device {str(device)!r} is not available: use cpu, or a GPU that torch finds."
        ) from error
