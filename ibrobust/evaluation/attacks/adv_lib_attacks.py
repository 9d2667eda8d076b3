"""adv-lib's attacks by function name."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import with_options
from ibrobust.evaluation.attacks.function_attack import FunctionAttack
from ibrobust.evaluation.attacks.text_form import ADV_LIB
from ibrobust.suggestions import suggestion

_ORDERS = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}
# Of the attacks that do not take one.
_NORMS = {
    "alma": "L2",
    "carlini_wagner_l2": "L2",
    "carlini_wagner_linf": "Linf",
    "ddn": "L2",
    "pdgd": "L2",
    "pgd_linf": "Linf",
    "sdf": "L2",
}
_RADII = ("eps", "ε")
# Not given as text, or decided here.
_RESERVED = {"model", "inputs", "labels", "targeted", "callback", "starting_points", "penalty", "distance"}


def adv_lib_attack(name: str, options: Mapping[str, Any]) -> FunctionAttack:
    """Return an attack of adv-lib; one without a radius searches for the smallest perturbation, once for all epsilons.

    Args:
        name: of a function in adv_lib.attacks, such as fmn or apgd.
        options: of the function, by keyword; `norm` is Linf, L2 or L1, and Linf by default if the function takes one.

    Raises:
        IbrobustError: adv-lib is not installed, has no such attack, or the attack does not take the options or works in
            another norm.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of visdom, which it imports
            from adv_lib import attacks
    except ModuleNotFoundError as error:
        missing = "adv-lib" if error.name == "adv_lib" else error.name
        raise IbrobustError(f"The attack {ADV_LIB}:{name} needs {missing}: pip install {missing}.") from None
    functions = {key: function for key, function in vars(attacks).items() if inspect.isfunction(function)}
    if name not in functions:
        hint = suggestion(name, functions, f"choose {', '.join(functions)}.")
        raise IbrobustError(f"adv-lib has no attack {name!r}: {hint}")
    function, parameters = functions[name], inspect.signature(functions[name]).parameters
    radius = next(
        (key for key in _RADII if key in parameters and parameters[key].default is inspect.Parameter.empty), ""
    )
    known = [key for key in parameters if key not in {*_RESERVED, *_RADII}]
    for key in options:
        if key not in known:
            raise IbrobustError(f"The attack {ADV_LIB}:{name} has no option {key!r}: it takes {', '.join(known)}.")
    norm = str(options.get("norm", "Linf")) if "norm" in parameters else _NORMS.get(name, "")
    if norm not in _ORDERS:
        raise IbrobustError(f"The attack {ADV_LIB}:{name} is not in Linf, L2 or L1: choose another attack or norm.")
    arguments = {**options, "norm": _ORDERS[norm]} if "norm" in parameters else dict(options)

    def run(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Any:
        del seed  # adv-lib draws from the global generators
        return function(model, images, labels, **arguments, **({radius: epsilon} if radius else {}))

    return FunctionAttack(run, with_options(f"{ADV_LIB}:{name}", options), norm, minimal=not radius)
