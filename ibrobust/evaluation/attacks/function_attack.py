"""An attack that is any function."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Attack, Found, with_options
from ibrobust.evaluation.attacks.fingerprint import fingerprint
from ibrobust.evaluation.attacks.option_types import NORMS
from ibrobust.evaluation.attacks.watched_model import WatchedModel, judged_by_gradients
from ibrobust.from_numpy import tensor_of
from ibrobust.function_names import importable, short_reason
from ibrobust.suggestions import a_type

FORM = "attack(model, images, labels, *, epsilon, seed)"
AttackFunction = Callable[..., Any]
_NORMS = (*NORMS, "L1")


@dataclass(frozen=True)
class FunctionAttack(Attack):
    """An attack that is a function.

    Attributes:
        function: ``attack(model, images, labels, *, epsilon, seed)`` -> adversarial images (B, C, H, W) in [0, 1].
        label: what it is called in results.
        norm: of epsilon: Linf, L2 or L1.
        options: passed to the function by keyword.
        minimal: the function searches for the smallest perturbation, of any size. It is called with an infinite
            epsilon.

    Raises:
        IbrobustError: the function does not take these arguments, or the norm is not one of them.
    """

    function: AttackFunction
    label: str
    norm: str = "Linf"
    options: tuple[tuple[str, Any], ...] = ()
    minimal: bool = False

    def __post_init__(self) -> None:
        if self.norm not in _NORMS:
            raise IbrobustError(f"The attack {self.label} has the norm {self.norm!r}: choose {' or '.join(_NORMS)}.")
        try:
            inspect.signature(self.function).bind(None, None, None, epsilon=0.0, seed=0, **dict(self.options))
        except TypeError as error:
            raise IbrobustError(
                f"The attack {self.label} cannot be called as {FORM}{' with its options' if self.options else ''} "
                f"({error}): change its arguments."
            ) from error
        except ValueError:  # a function that is not written in Python does not tell its arguments
            pass

    @property
    def source(self) -> str:
        """SHA-256 of the function and its values, so that a run is not resumed with another one."""
        if all(
            isinstance(value, (bool, int, float, str, type(None))) for _, value in self.options
        ):  # which the label says
            return fingerprint(self.function)
        return fingerprint(functools.partial(self.function, **dict(self.options)))

    def find(self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Found:
        """Return the function's result on copies of the images; see `judged_by_gradients` for the warnings.

        Raises:
            IbrobustError: the function fails, changes the model's weights, does not return images of this shape, or
                returns NaN pixels although the gradients of the model are finite and not zero.
        """
        watched = WatchedModel(model, len(images))
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        adversarial = self._run(watched, images, labels, epsilon=math.inf if self.minimal else epsilon, seed=seed)
        after = model.named_parameters()
        changed = next((name for name, weight in after if not _is_equal(weight.detach(), before[name])), None)
        if changed is not None:
            raise IbrobustError(
                f"The attack {self.label} changes the model's {changed!r}: its result is not counted. Let it change a "
                "copy, copy.deepcopy(model)."
            )
        return judged_by_gradients(watched, adversarial, images, labels, label=self.label, minimal=self.minimal)

    def _run(self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
        options: dict[str, Any] = dict(self.options)
        try:
            with importable(None):  # also for what the function imports itself
                given = self.function(model, images.clone(), labels.clone(), epsilon=epsilon, seed=seed, **options)
        except (MemoryError, torch.cuda.OutOfMemoryError, IbrobustError):
            raise
        except Exception as error:  # whatever it does
            raise IbrobustError(
                f"The attack {self.label} fails ({short_reason(error)}): correct it, or leave it out."
            ) from error
        try:
            adversarial = torch.as_tensor(tensor_of(given) if isinstance(given, np.ndarray) else given).detach().clone()
        except (TypeError, ValueError, RuntimeError):
            adversarial = None
        if adversarial is None or adversarial.shape != images.shape or not adversarial.is_floating_point():
            what = f"{a_type(given)}"
            if adversarial is not None:
                what = f"{adversarial.dtype} of {tuple(adversarial.shape)}"
            raise IbrobustError(
                f"The attack {self.label} gave {what}, but floats of {tuple(images.shape)} are needed: its result is "
                "not counted. Return adversarial images alone."
            )
        return adversarial.to(images)


def function_attack(
    function: AttackFunction, *, label: str | None = None, options: Mapping[str, Any] | None = None
) -> FunctionAttack:
    """Return a function as an attack.

    Args:
        function: see `FunctionAttack`. The keywords of a `functools.partial` are its options. `norm` and `minimal` are
            attributes of the function or of the partial. Without the attribute `norm`, the default value of a parameter
            `norm` counts.
        label: the function's name by default.
        options: passed to the function by keyword; `norm` is also the attack's norm.

    Raises:
        IbrobustError: it is no such function.
    """
    layers: list[Any] = [function]  # a partial, perhaps of partials, and the function inside
    while isinstance(layers[-1], functools.partial):
        layers.append(layers[-1].func)
    *partials, function = layers
    keywords = {key: value for layer in reversed(partials) for key, value in layer.keywords.items()}
    given = [value for layer in reversed(partials) for value in layer.args]
    options = {**keywords, **(options or {})}
    label = label or _name_of(function)
    if not callable(function):
        raise IbrobustError(f"{label} is {a_type(function)}, but a function is needed, {FORM}.")
    norms = [layer.norm for layer in layers if hasattr(layer, "norm")] or [_own_norm(function, given)]
    minimal = next((layer.minimal for layer in layers if hasattr(layer, "minimal")), False)
    return FunctionAttack(
        functools.partial(function, *given) if given else function,
        with_options(label, options),
        str(options.get("norm", norms[0])),
        tuple(options.items()),
        bool(minimal),
    )


def _is_equal(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one != one)).all())  # NaN stays NaN


def _own_norm(function: AttackFunction, given: Sequence[Any]) -> Any:
    """Return the parameter `norm` of a function, as given by position or by default; Linf without one."""
    try:
        arguments = inspect.signature(function).bind_partial(*given)
    except (TypeError, ValueError):  # it does not tell its arguments, or has not so many
        return "Linf"
    arguments.apply_defaults()
    norm = arguments.arguments.get("norm")
    return norm if norm is not None else "Linf"


def _name_of(function: AttackFunction) -> str:
    name = getattr(function, "__qualname__", type(function).__name__).replace("<locals>.", "")
    return f"{getattr(function, '__module__', type(function).__module__)}:{name}"
