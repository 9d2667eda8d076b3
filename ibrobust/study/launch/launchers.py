"""The launchers by name: where the cells of a study run."""

from __future__ import annotations

from pathlib import Path

from ibrobust.errors import IbrobustError
from ibrobust.study.run import Launcher

LAUNCHERS = ("serial", "local", "slurm")


def choose_launcher(name: str, *, jobs: int, device: str | None, data_dir: Path | None) -> Launcher | None:
    """Return what runs the cells; None runs them one after the other in this process.

    Args:
        name: of `LAUNCHERS`.
        jobs: processes at once, of the local launcher.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default what is there.
        data_dir: see `load_dataset`.

    Raises:
        IbrobustError: there is no launcher of that name, or what it needs is not installed.
    """
    if name == "serial":
        return None
    if name == "local":
        from ibrobust.study.launch.local import local_launcher

        return local_launcher(jobs=jobs, device=device, data_dir=data_dir)
    if name == "slurm":
        from ibrobust.study.launch.slurm import slurm_launcher

        return slurm_launcher(device=device, data_dir=data_dir)
    raise IbrobustError(f"There is no launcher {name!r}: choose one of {', '.join(LAUNCHERS)}.")
