"""The launchers by name."""

from __future__ import annotations

from pathlib import Path

from ibrobust.errors import IbrobustError
from ibrobust.study.run import Launcher

LAUNCHERS = ("serial", "local", "slurm")


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
    if name == "serial":
        return None
    if name == "local":
        from ibrobust.study.launch.local import local_launcher

        return local_launcher(jobs=jobs, device=device, data_dir=data_dir)
    if name == "slurm":
        from ibrobust.study.launch.slurm import slurm_launcher

        return slurm_launcher(device=device, data_dir=data_dir)
    raise IbrobustError(f"Unknown launcher {name!r}: choose one of {', '.join(LAUNCHERS)}.")
