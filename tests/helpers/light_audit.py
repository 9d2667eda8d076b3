"""Audits of small models with a fraction of the steps: they find no less on these."""

from __future__ import annotations

import pytest

from ibrobust.evaluation.audit import run
from ibrobust.evaluation.audit.subject import Effort
from ibrobust.evaluation.worst_case_attack import guards, stages


def lighten(patch: pytest.MonkeyPatch, effort: Effort) -> None:
    """Let quick audits make that effort, and fewer steps in the worst-case attack."""
    patch.setattr(run, "QUICK", effort)
    patch.setattr(guards, "MORE_QUERIES", 50)
    patch.setattr(guards, "FAB_STEPS", 15)
    for name, number in (("MOST_TARGETS", 3), ("RESTARTS", 2), ("FURTHER_STEPS", 20), ("LAST_STEPS", 20)):
        patch.setattr(stages, name, number)
