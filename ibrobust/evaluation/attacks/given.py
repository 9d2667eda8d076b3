"""Attacks that ibrobust does not have: any function, by itself, by its name, or of another package."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.foolbox_attacks import SCHEME as FOOLBOX
from ibrobust.evaluation.attacks.foolbox_attacks import foolbox_function
from ibrobust.evaluation.attacks.spec import AttackSpec, Value, attack_names, parse_attack, read_options
from ibrobust.evaluation.ball import NORMS
from ibrobust.evaluation.guarded_model import LibraryModel
from ibrobust.function_names import function_by_name, short_reason

ENTRY_POINT_GROUP = "ibrobust.attacks"
FORM = "attack(model, images, labels, *, epsilon, seed)"
Attack = Callable[..., Any]


@dataclass(frozen=True)
class GivenAttack:
    """An attack that is a function.

    Attributes:
        function: ``attack(model, images, labels, *, epsilon, seed)`` -> adversarial images (B, C, H, W) in [0, 1].
        label: what it is called in results.
        norm: Linf, L2 or L1, that epsilon is a radius in: the function's attribute `norm`, or Linf.
        options: handed to the function by keyword, in alphabetical order.

    Raises:
        IbrobustError: the function does not take these arguments, or the norm is not one of them.
    """

    function: Attack
    label: str
    norm: str = "Linf"
    options: tuple[tuple[str, Value], ...] = ()

    # A result must not depend on what the attack does to images that are wrong already.
    skips_misclassified = True

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
        except ValueError:  # a function that is not written in Python says nothing of its arguments
            pass

    @property
    def source(self) -> str:
        """SHA-256 of the function's text, so that a run is not resumed with another one; empty where there is none."""
        try:
            return hashlib.sha256(inspect.getsource(self.function).encode()).hexdigest()
        except (OSError, TypeError):
            return ""


_NORMS = (*NORMS, "L1")
AnyAttack = AttackSpec | GivenAttack


def read_attack(attack: AnyAttack | Attack | str) -> AnyAttack:
    """Return an attack in the form that `run_attacks` works with.

    Args:
        attack: a function, see `GivenAttack`; or text with options, ``NAME:key=value,key=value``, where the name is one
            of `attack_names`, ``foolbox:NAME``, ``package.module:function``, or the name of an entry point in the
            group ``ibrobust.attacks``.

    Raises:
        IbrobustError: there is no such attack or option.
    """
    if isinstance(attack, (AttackSpec, GivenAttack)):
        return attack
    if isinstance(attack, str):
        return _by_name(attack)
    if not callable(attack):
        raise IbrobustError(f"A {type(attack).__name__} is no attack: give a name or a function, {FORM}.")
    return GivenAttack(attack, _name_of(attack), str(getattr(attack, "norm", "Linf")))


def run_given(
    model: nn.Module, images: Tensor, labels: Tensor, attack: GivenAttack, *, epsilon: float, seed: int
) -> Tensor:
    """Return the adversarial images (B, C, H, W) that a given attack makes; only their shape is checked yet.

    Args:
        model: in evaluation mode, behind a guard.
        images: (B, C, H, W) in [0, 1], on the model's device.
        labels: (B,).
        attack: to be run, on copies.
        epsilon: radius in the attack's norm.
        seed: for the attack's own generators; torch's, NumPy's and Python's have it already.

    Raises:
        IbrobustError: the attack fails, or what it gives are no images of this shape.
    """
    options: dict[str, Any] = dict(attack.options)
    try:
        given = attack.function(
            LibraryModel(model), images.clone(), labels.clone(), epsilon=epsilon, seed=seed, **options
        )
    except (MemoryError, torch.cuda.OutOfMemoryError, IbrobustError):
        raise
    except Exception as error:  # whatever it does
        raise IbrobustError(
            f"The attack {attack.label} fails ({short_reason(error)}): correct it, or leave it out."
        ) from error
    try:
        adversarial = torch.as_tensor(given).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        adversarial = None
    if adversarial is None or adversarial.shape != images.shape or not adversarial.is_floating_point():
        what = f"a {type(given).__name__}"
        if adversarial is not None:
            what = f"{adversarial.dtype} of {tuple(adversarial.shape)}"
        raise IbrobustError(
            f"The attack {attack.label} gave {what}, where floats of {tuple(images.shape)} are needed: its result is "
            "not counted. Return adversarial images alone."
        )
    return adversarial.to(images)


def check_numbers(attack: GivenAttack, adversarial: Tensor, *, excused: Tensor) -> None:
    """Raise IbrobustError where pixels (B, C, H, W) are no numbers although the model's gradient is, (B,) excused."""
    lost = ~adversarial.flatten(1).isfinite().all(dim=1) & ~excused
    if bool(lost.any()):
        raise IbrobustError(
            f"The attack {attack.label} gave pixels that are no numbers for {int(lost.sum())} images, although the "
            "model's gradients are: its result is not counted. Correct it, or leave it out."
        )


def _by_name(text: str) -> AnyAttack:
    name, _, rest = (part.strip() for part in text.strip().partition(":"))
    if name.lower().replace("_", "") in {known.lower() for known in attack_names()}:
        return parse_attack(text)
    point = next((point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == name), None)
    if point is not None:
        try:
            function = point.load()
        except Exception as error:  # whatever a plugin does
            why = short_reason(error)
            raise IbrobustError(f"The attack {name!r} of {point.value} cannot be loaded: {why}") from error
        return _with_options(function, name, rest)
    function_name, _, written = (part.strip() for part in rest.partition(":"))
    if not function_name or "=" in function_name:
        return parse_attack(text)  # which names the nearest
    reference = f"{name}:{function_name}"
    if name == FOOLBOX:
        options = read_options(written)
        norm, function = foolbox_function(function_name, options)
        label = f"{reference}:{written}" if written else reference
        return GivenAttack(function, label, norm)
    return _with_options(function_by_name(reference, f"The attack {text!r}"), reference, written)


def _with_options(function: Any, name: str, written: str) -> GivenAttack:
    options = read_options(written)
    label = name if not options else f"{name}:{written}"
    norm = options.get("norm", getattr(function, "norm", "Linf"))
    if not callable(function):
        raise IbrobustError(f"{name} is a {type(function).__name__}, where a function is needed, {FORM}.")
    return GivenAttack(function, label, str(norm), tuple(sorted(options.items())))


def _name_of(function: Attack) -> str:
    name = getattr(function, "__qualname__", type(function).__name__).replace("<locals>.", "")
    return f"{getattr(function, '__module__', type(function).__module__)}:{name}"
