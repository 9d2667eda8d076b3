"""Attacks as text: PGD:steps=50,random_start=true."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.losses import LOSSES
from ibrobust.evaluation.attacks.option_limits import check_option, check_together, option_limit
from ibrobust.evaluation.ball import NORMS

Value = bool | int | float | str

# Our own, with their options' defaults. FGSM and PGD replace torchattacks' classes of that name: they have three
# losses, skip images that are wrong already and stop at the first success. alpha=None is 2.5 epsilon / steps. WorstCase
# may be written worst_case, and runs AutoAttack on what it leaves with escalate=true. With precision=bf16 an attack
# searches on a rounded copy of the model; only the model's own answer counts.
OWN_ATTACKS: dict[str, dict[str, Value | None]] = {
    "FGSM": {"loss": "cross_entropy"},
    "PGD": {
        "steps": 10,
        "alpha": None,
        "random_start": True,
        "restarts": 1,
        "loss": "cross_entropy",
        "norm": "Linf",
        "precision": "fp32",
    },
    "AutoAttack": {"version": "standard", "norm": "Linf", "n_iter": 100, "n_queries": 5000, "precision": "fp32"},
    "WorstCase": {"norm": "Linf", "escalate": False},
}
CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("FGSM", "loss"): tuple(LOSSES),
    ("PGD", "loss"): tuple(LOSSES),
    ("PGD", "precision"): ("fp32", "bf16"),
    ("AutoAttack", "version"): ("standard", "rand"),
    ("AutoAttack", "precision"): ("fp32", "bf16"),
    **dict.fromkeys((("PGD", "norm"), ("AutoAttack", "norm"), ("WorstCase", "norm")), NORMS),
    **dict.fromkeys((("PGDRS", "noise_type"), ("PGDRSL2", "noise_type")), ("guassian", "uniform")),
}
_NORMS = {
    **dict.fromkeys(("CW", "PGDL2", "PGDRSL2", "DeepFool", "EADEN"), "L2"),
    "EADL1": "L1",
    **dict.fromkeys(("SparseFool", "OnePixel", "Pixle", "JSMA"), "L0"),
}
# The names under which torchattacks' classes take their radius.
RADIUS_OPTIONS = ("eps", "max_epsilon")
# Filled in by ibrobust: the radius from the list of epsilons, the number of classes from the model.
_RESERVED = (*RADIUS_OPTIONS, "model", "n_classes", "verbose", "seed")


@dataclass(frozen=True)
class AttackSpec:
    """An attack with its given options.

    Attributes:
        name: one of ours (FGSM, PGD, AutoAttack) or a torchattacks class.
        options: in alphabetical order; omitted options have their defaults.

    Raises:
        IbrobustError: the attack or an option is unknown, or the attack cannot work with a value.
    """

    name: str
    options: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in OWN_ATTACKS and self.name not in attack_names():
            raise _no_such_attack(self.name)
        defaults = attack_options(self.name)
        for key, value in self.options:
            _check_value(self.name, key, value, defaults)
        check_together(self.name, {**defaults, **dict(self.options)})

    @property
    def label(self) -> str:
        """The attack as it is written on the command line."""
        written = ",".join(f"{key}={_written(value)}" for key, value in self.options)
        return f"{self.name}:{written}" if written else self.name

    @property
    def norm(self) -> str:
        """The norm of epsilon: Linf, L2, L1, or L0 as the share of pixels changed."""
        return str(dict(self.options).get("norm", _NORMS.get(self.name, "Linf")))

    @property
    def skips_misclassified(self) -> bool:
        """Whether images that are already wrong are skipped: for all attacks but FGSM, which has to equal the sweep."""
        return self.name != "FGSM"


def parse_attack(text: str) -> AttackSpec:
    """Return the attack of a text NAME or NAME:option=value,option=value.

    Raises:
        IbrobustError: the attack or an option is unknown, or the attack cannot work with a value. The message suggests
            the nearest names.
    """
    name, _, written = text.strip().partition(":")
    exact = {entry.lower(): entry for entry in attack_names()}.get(name.strip().lower().replace("_", ""))
    if exact is None:
        raise _no_such_attack(name)
    defaults = attack_options(exact)
    options = read_options(written, unwritten=lambda key: _no_such_option(exact, key, defaults))
    for key, value in options.items():
        if _is_number(value) and isinstance(defaults.get(key, 0), float | None):
            options[key] = float(value)
    return AttackSpec(exact, tuple(sorted(options.items())))


def read_options(written: str, *, unwritten: Callable[[str], IbrobustError] | None = None) -> dict[str, Value]:
    """Return the options in ``key=value,key=value``.

    Args:
        written: the text.
        unwritten: makes the error for a key without a value.

    Raises:
        IbrobustError: a key has no value, comes twice, or is the radius.
    """
    options: dict[str, Value] = {}
    for part in filter(None, written.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key in RADIUS_OPTIONS:
            raise IbrobustError(f"{written!r} gives {key}: the radii come from `epsilons`.")
        if not equals:
            raise unwritten(key) if unwritten else IbrobustError(f"The option {key!r} has no value: write {key}=VALUE.")
        if key in options:
            raise IbrobustError(f"{written!r} gives {key} twice: give it once.")
        options[key] = _literal(value)
    return options


def attack_names() -> list[str]:
    """Return the names of all attacks: ours and torchattacks' classes, without those that wrap other attacks."""
    wrapping = {"MultiAttack", "LGV"}
    return sorted({*OWN_ATTACKS, *(set(_torchattacks_names()) - wrapping)})


def _torchattacks_names() -> list[str]:
    """Return the names of torchattacks' classes; none where it is not installed."""
    try:
        import torchattacks
    except ModuleNotFoundError:
        return []
    return list(torchattacks.__all__)


def attack_options(name: str) -> Mapping[str, Value | None]:
    """Return an attack's options with their defaults."""
    if name in OWN_ATTACKS:
        return OWN_ATTACKS[name]
    # Pixle's pairs of numbers cannot be written as an option.
    return {
        key: value
        for key, value in torchattacks_signature(name).items()
        if key not in _RESERVED and isinstance(value, Value)
    }


def torchattacks_signature(name: str) -> dict[str, Any]:
    """Return every argument of a torchattacks class but the model, with its default."""
    import torchattacks

    parameters = inspect.signature(getattr(torchattacks, name)).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "model"}


def _check_value(attack: str, key: str, value: Value, defaults: Mapping[str, Value | None]) -> None:
    if key not in defaults:
        raise _no_such_option(attack, key, defaults)
    choices, default = CHOICES.get((attack, key), ()), defaults[key]
    if choices and value not in choices:
        rule = f"choose {' or '.join(choices)}."
        raise IbrobustError(f"{attack} has no {key} {str(value)!r}: " + _remedy(str(value), list(choices), rule))
    example = 0.01 if default is None else default
    # torchattacks writes defaults such as c=1 and scale=10 for numbers that need not be whole.
    numbers = _is_number(value) and _is_number(example)
    fits = type(value) is type(example) or (numbers and not option_limit(attack, key).whole)
    if not fits:
        raise IbrobustError(f"{attack}'s option {key} is {str(value)!r}: a value like {_written(example)} is needed.")
    if _is_number(value):
        check_option(attack, key, value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _literal(text: str) -> Value:
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    numerator, slash, denominator = text.partition("/")
    try:
        if slash:
            return float(numerator) / float(denominator)
        return int(text)
    except (ValueError, ZeroDivisionError):
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _no_such_attack(name: str) -> IbrobustError:
    rule = (
        f"choose {', '.join(OWN_ATTACKS)}, a torchattacks class by its name, foolbox:NAME, or a function of yours, "
        "package.module:function."
    )
    if not _torchattacks_names():
        rule += " torchattacks is not installed: python -m pip install torchattacks."
    return IbrobustError(f"Unknown attack {name!r}: " + _remedy(name, attack_names(), rule))


def _no_such_option(attack: str, key: str, defaults: Mapping[str, object]) -> IbrobustError:
    rule = f"it takes {', '.join(defaults) or 'none'}."
    return IbrobustError(f"The attack {attack} has no option {key!r}: " + _remedy(key, list(defaults), rule))


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _remedy(name: str, known: list[str], rule: str) -> str:
    """Return a hint with similar known names, if any, and the rule."""
    lowered = {entry.lower(): entry for entry in known}
    close = [lowered[entry] for entry in difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(close)}? {rule[0].upper()}{rule[1:]}" if close else rule
