"""foolbox's attacks by class name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import with_options
from ibrobust.evaluation.attacks.function_attack import FunctionAttack
from ibrobust.evaluation.attacks.text_form import FOOLBOX
from ibrobust.function_names import short_reason
from ibrobust.suggestions import suggestion


def foolbox_attack(name: str, options: Mapping[str, Any]) -> FunctionAttack:
    """Return a foolbox attack.

    One that searches for the smallest perturbation is run once, for all epsilons.

    Args:
        name: of a class in foolbox.attacks, as LinfPGD or L2FMNAttack.
        options: of the class, by keyword; `distance` is Linf, L2 or L1.

    Raises:
        IbrobustError: foolbox is not installed, has no such attack, or the attack does not take the options or works in
            another norm.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scipy, about names that foolbox takes from it
            import foolbox
    except ImportError:
        raise IbrobustError(f"The attack {FOOLBOX}:{name} needs foolbox: pip install foolbox.") from None
    kinds = {
        key: kind
        for key, kind in vars(foolbox.attacks).items()
        if inspect.isclass(kind) and issubclass(kind, foolbox.attacks.base.Attack) and not inspect.isabstract(kind)
    }
    if name not in kinds:
        hint = suggestion(name, kinds, "give the name of a class, such as LinfPGD.")
        raise IbrobustError(f"foolbox has no attack {name!r}: {hint}")
    known = list(inspect.signature(kinds[name]).parameters)
    for key in options:
        if key not in known:
            raise IbrobustError(
                f"The attack {FOOLBOX}:{name} has no option {key!r}: it takes {', '.join(known) or 'none'}."
            )
    norms = {"Linf": foolbox.distances.linf, "L2": foolbox.distances.l2, "L1": foolbox.distances.l1}
    arguments = {**options}
    written = options.get("distance")  # of attacks that work in any; in Python also foolbox's own object
    if isinstance(written, str):
        if written not in norms:
            raise IbrobustError(
                f"The attack {FOOLBOX}:{name} has no distance {written!r}: choose {' or '.join(norms)}."
            )
        arguments["distance"] = norms[written]
    try:
        attack: Any = kinds[name](**arguments)
        distance = attack.distance
    except ModuleNotFoundError as error:  # Brendel and Bethge's attacks are compiled by numba
        raise IbrobustError(f"The attack {FOOLBOX}:{name} needs {error.name}: pip install {error.name}.") from error
    except Exception as error:  # missing arguments, values that it does not like
        raise IbrobustError(
            f"The attack {FOOLBOX}:{name} cannot be made with these options ({short_reason(error)}): it takes "
            f"{', '.join(known) or 'none'}."
        ) from error
    norm = next((norm for norm, known_distance in norms.items() if distance is known_distance), None)
    if norm is None:
        raise IbrobustError(f"The attack {FOOLBOX}:{name} works in {distance}: choose one in Linf, L2 or L1.")

    minimal = isinstance(attack, foolbox.attacks.base.MinimizationAttack)

    def run(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
        del seed  # foolbox draws from the global generators
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
        _, adversarial, _ = attack(wrapped, images, labels, epsilons=None if minimal else epsilon)
        return cast(Tensor, adversarial)

    return FunctionAttack(run, with_options(f"{FOOLBOX}:{name}", options), norm, minimal=minimal)
