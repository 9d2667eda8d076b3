"""The launchers by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ibrobust.errors import IbrobustError
from ibrobust.suggestions import remedy

if TYPE_CHECKING:
    from ibrobust.study.run import Launcher

LAUNCHERS = ("serial", "local", "slurm")
_RULE = f"choose one of {', '.join(LAUNCHERS)}."


def check_launcher(name: str) -> None:
    """Raise IbrobustError, with similar names, if there is no such launcher; this does not import torch."""
    if name not in LAUNCHERS:
        raise IbrobustError(f"Unknown launcher {name!r}: {remedy(name, LAUNCHERS, _RULE)}")


def choose_launcher(name: str, *, jobs: int, device: str | None, data_dir: Path | None) -> Launcher | None:
    """Return the launcher of that name; None runs the cells one after the other in this process.

    Args:
        name: of `LAUNCHERS`.
        jobs: number of processes of the local launcher.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default cuda if available.
        data_dir: see `load_dataset`.

    Raises:
        IbrobustError: the launcher is unknown, or a package it needs is not installed.
    """
    check_launcher(name)
    if name == "serial":
        return None
    if name == "local":
        from ibrobust.study.launch.local import local_launcher

        return local_launcher(jobs=jobs, device=device, data_dir=data_dir)
    from ibrobust.study.launch.slurm import slurm_launcher

    return slurm_launcher(device=device, data_dir=data_dir)
