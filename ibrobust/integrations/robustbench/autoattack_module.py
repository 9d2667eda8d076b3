"""The module `autoattack`, provided in memory for RobustBench and others that import it."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from pyautoattack import autopgd_base, checks, fab_base, fab_projections, fab_pt, other_utils, square

from ibrobust.integrations.autoattack.engine import AutoAttack
from ibrobust.integrations.autoattack.state import EvaluationState

MODULE = "autoattack"


def real_autoattack() -> str | None:
    """Return the file of an installed `autoattack` package, or None."""
    loaded = sys.modules.get(MODULE)
    if loaded is not None:
        return None if getattr(loaded, "AutoAttack", None) is AutoAttack else str(getattr(loaded, "__file__", MODULE))
    spec = importlib.util.find_spec(MODULE)
    # A folder without __init__.py, for example of results, has no origin: it is not a package.
    return spec.origin if spec is not None else None


def install() -> bool:
    """Make `import autoattack` give this adapter in this process; return False if a real one is used."""
    if real_autoattack() is not None:
        return False
    modules = {
        "": _module(MODULE, AutoAttack=AutoAttack),
        ".autoattack": _module(f"{MODULE}.autoattack", AutoAttack=AutoAttack),
        ".state": _module(f"{MODULE}.state", EvaluationState=EvaluationState),
    }
    for module in (autopgd_base, checks, fab_base, fab_projections, fab_pt, other_utils, square):
        modules["." + module.__name__.rpartition(".")[2]] = module
    for suffix, module in modules.items():
        sys.modules[MODULE + suffix] = module
        if suffix:
            setattr(modules[""], suffix[1:], module)
    modules[""].__path__ = []
    return True


def _module(name: str, **contents: object) -> ModuleType:
    module = ModuleType(name, f"Stands in for {name}: ibrobust.integrations.autoattack.engine over pyautoattack.")
    module.__spec__ = ModuleSpec(name, loader=None, origin=__file__)
    vars(module).update(contents)
    return module
