"""The objectives by name: ibrobust's own, and those of other packages through an entry point."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from ibrobust.errors import IbrobustError
from ibrobust.function_names import use_plugins
from ibrobust.objectives.adversarial import AdversarialTraining
from ibrobust.objectives.base import Objective
from ibrobust.objectives.conditional_bottleneck import ConditionalBottleneck
from ibrobust.objectives.cross_entropy import CrossEntropy
from ibrobust.objectives.deterministic_bottleneck import DeterministicBottleneck
from ibrobust.objectives.knn_bottleneck import KnnBottleneck
from ibrobust.objectives.soft_bottleneck import SoftBottleneck
from ibrobust.objectives.variational import VariationalBottleneck
from ibrobust.suggestions import suggestion

ENTRY_POINT_GROUP = "ibrobust.objectives"
Kind = TypeVar("Kind", bound=type[Objective])

_objectives: dict[str, type[Objective]] = {}
_plugins_loaded = False


def register_objective(name: str) -> Callable[[Kind], Kind]:
    """Return a class decorator to register an `Objective` under `name`.

    Defining the same class again, as in a notebook, replaces it.

    Raises:
        IbrobustError: the name is taken by another class.
    """

    def register(kind: Kind) -> Kind:
        known = _objectives.get(name, kind)
        if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
            raise IbrobustError(f"The objective {name!r} already exists: register this one under another name.")
        _objectives[name] = kind
        return kind

    return register


def list_objectives() -> list[str]:
    """Return the names of all objectives, sorted."""
    _load_plugins()
    return sorted(_objectives)


def objective_class(name: str) -> type[Objective]:
    """Return the class registered under `name`; raise IbrobustError, with the nearest names, if it is unknown."""
    _load_plugins()
    if name not in _objectives:
        hint = suggestion(name, _objectives, f"choose one of {', '.join(sorted(_objectives))}.")
        raise IbrobustError(f"Unknown objective {name!r}: {hint}")
    return _objectives[name]


def build_objective(name: str, *, latent_dim: int, num_classes: int, **options: Any) -> Objective:
    """Return a new objective; raise IbrobustError if the name is unknown or the class does not take the options."""
    make: Callable[..., Objective] = objective_class(name)
    try:
        return make(latent_dim=latent_dim, num_classes=num_classes, **options)
    except TypeError as error:
        raise IbrobustError(f"The objective {name!r} does not take these options: {error}.") from error


def _load_plugins() -> None:
    """Import the objectives of other packages; one that fails is named in a warning and skipped."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    use_plugins(ENTRY_POINT_GROUP, "objective", _register_plugin)


def _register_plugin(name: str, loaded: Any) -> None:
    if isinstance(loaded, ModuleType):  # its own decorators have registered its objectives
        return
    if not (isinstance(loaded, type) and issubclass(loaded, Objective)):
        raise IbrobustError("it is no Objective and no module.")
    register_objective(name)(loaded)


register_objective("adversarial")(AdversarialTraining)
register_objective("ceb")(ConditionalBottleneck)
register_objective("cross_entropy")(CrossEntropy)
register_objective("dib")(DeterministicBottleneck)
register_objective("dvib")(VariationalBottleneck)
register_objective("knn_ib")(KnnBottleneck)
register_objective("soft_ib")(SoftBottleneck)
