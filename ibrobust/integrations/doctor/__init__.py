"""Checks of the installation, and for each problem the command that fixes it."""

from __future__ import annotations

from ibrobust.integrations.doctor.check import Check, guarded
from ibrobust.integrations.doctor.quick import CHECKS

__all__ = ["Check", "main_job_can_run", "run_checks"]


def run_checks(*, full: bool = False) -> tuple[Check, ...]:
    """Return the outcomes of all checks, in reading order; none of them raises.

    Args:
        full: also import the packages and try them, which takes seconds. By default nothing heavy is imported.
    """
    if not full:
        return tuple(guarded(name, check) for name, check in CHECKS.items())
    from ibrobust.integrations.doctor.trials import TRIALS
    from ibrobust.integrations.robustbench.environment import imported_quietly

    order = ("Python", "torch", "CUDA", *(name for name in CHECKS if name not in ("Python", "torch")))
    with imported_quietly():
        return tuple(guarded(name, TRIALS.get(name) or CHECKS[name]) for name in order)


def main_job_can_run(checks: tuple[Check, ...]) -> bool:
    """Return whether nothing that was checked prevents training and attacking."""
    return all(check.status != "problem" for check in checks)
