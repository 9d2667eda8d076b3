"""Checks of a training's settings without torch, so that an error comes at once."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection
from importlib.metadata import entry_points

from ibrobust.errors import IbrobustError
from ibrobust.suggestions import suggestion

OWN_OBJECTIVES = ("adversarial", "ceb", "cross_entropy", "dib", "dvib", "knn_ib", "soft_ib")
# Which of beta and noise they do not use, as their classes say.
_UNUSED = {"adversarial": ("beta", "noise"), "ceb": ("noise",), "cross_entropy": ("beta", "noise"), "dvib": ("noise",)}
# accelerate's.
TRACKERS = (
    "aim",
    "clearml",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
)


def check_objective(name: str, options: Collection[str] = ()) -> None:
    """Raise IbrobustError, with similar names, for an objective that cannot exist, or has no `objective_options`.

    Others may: with a colon, from an installed package, or registered in this process. `objective_class` knows.
    """
    elsewhere = (
        ":" in name or entry_points(group="ibrobust.objectives") or "ibrobust.objectives.registry" in sys.modules
    )
    if name not in OWN_OBJECTIVES and not elsewhere:
        hint = suggestion(name, OWN_OBJECTIVES, f"choose one of {', '.join(OWN_OBJECTIVES)}.")
        raise IbrobustError(f"Unknown objective {name!r}: {hint}")
    if name in OWN_OBJECTIVES and options:
        raise IbrobustError(
            f"The objective {name!r} takes no objective_options ({', '.join(options)}), which are for objectives of "
            "other packages: leave them out, or name one of those."
        )


def without_effect(objective: str) -> Collection[str]:
    """Return which of the settings beta and noise an objective does not use; it may need torch for other packages'."""
    if objective in OWN_OBJECTIVES:
        return _UNUSED.get(objective, ())
    from ibrobust.training.build import unused_if_known

    return unused_if_known(objective) & {"beta", "noise"}


def check_tracker(log_with: str | None) -> None:
    """Raise IbrobustError if a tracker is unknown or not installed."""
    if log_with is None:
        return
    if log_with not in TRACKERS:
        hint = suggestion(log_with, TRACKERS, f"use one of {', '.join(TRACKERS)}.")
        raise IbrobustError(f"Unknown tracker {log_with!r}: {hint}")
    # accelerate takes tensorboardX as well.
    modules = ("tensorboard", "tensorboardX") if log_with == "tensorboard" else (log_with,)
    if all(importlib.util.find_spec(module) is None for module in modules):
        raise IbrobustError(f"The tracker {log_with!r} is not installed: pip install {log_with}.")
