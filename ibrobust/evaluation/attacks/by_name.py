"""Attacks by name, with their options in Python or as text: PGD:steps=50,random_start=true."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.adv_lib_attacks import SCHEME as ADV_LIB
from ibrobust.evaluation.attacks.adv_lib_attacks import adv_lib_attack
from ibrobust.evaluation.attacks.attack import Attack, Value, remedy
from ibrobust.evaluation.attacks.foolbox_attacks import SCHEME as FOOLBOX
from ibrobust.evaluation.attacks.foolbox_attacks import foolbox_attack
from ibrobust.evaluation.attacks.function_attack import FORM, AttackFunction, function_attack
from ibrobust.evaluation.attacks.own_attacks import OWN_ATTACKS
from ibrobust.evaluation.attacks.surrogate import Transfer
from ibrobust.evaluation.attacks.torchattacks_classes import RADIUS_OPTIONS, torchattacks_class, torchattacks_names
from ibrobust.function_names import function_by_name, load_plugin

ENTRY_POINT_GROUP = "ibrobust.attacks"


def read_attack(attack: Attack | type[Attack] | AttackFunction | str) -> Attack:
    """Return an attack in the form that `run_attacks` works with.

    Args:
        attack: an attack, a function, see `FunctionAttack`, or text with options, ``NAME:key=value,key=value``, for
            names see `create_attack`.

    Raises:
        IbrobustError: the attack or an option is unknown, or the attack cannot work with a value.
    """
    if isinstance(attack, Attack):
        return attack
    if isinstance(attack, str):
        name, written = _name_and_options(attack)
        return create_attack(name, **_read_options(written))
    if isinstance(attack, type) and issubclass(attack, Attack):
        return attack()
    if not callable(attack):
        raise IbrobustError(f"A {type(attack).__name__} is no attack: give a name or a function, {FORM}.")
    return function_attack(attack)


def create_attack(name: str, /, **options: Any) -> Attack:
    """Return the attack of a name, with options as on the command line.

    Args:
        name: one of `list_attacks`, in any case; ``transfer:MODEL``; ``foolbox:NAME`` of a class of foolbox;
            ``adv_lib:NAME`` of a function of adv-lib; or ``package.module:function``, imported as Python imports, from
            the current folder too.
        options: of the attack; omitted ones have their defaults.

    Raises:
        IbrobustError: the attack or an option is unknown, or the attack cannot work with a value. The message suggests
            the nearest names.

    Examples:
        >>> import ibrobust
        >>> ibrobust.create_attack("CW", steps=50).norm
        'L2'
        >>> ibrobust.create_attack("worst_case", norm="L2") == ibrobust.WorstCase(norm="L2")
        True
    """
    plain = _plain(name)
    for own in OWN_ATTACKS:
        if _plain(own.__name__) == plain:
            return own(**options)
    for known in torchattacks_names():
        if _plain(known) == plain:
            return torchattacks_class(known)(**options)
    for point in _plugins():
        if _plain(point.name) == plain:
            return _load(point, options)
    scheme, _, target = name.partition(":")
    if not target:
        raise _unknown(name)
    if _plain(scheme) == _plain(Transfer.__name__):
        return Transfer(surrogate=target, **options)
    if scheme == FOOLBOX:
        return foolbox_attack(target, options)
    if scheme == ADV_LIB:
        return adv_lib_attack(target, options)
    return function_attack(function_by_name(name, f"The attack {name!r}"), label=name, options=options)


def list_attacks() -> list[str]:
    """Return the names of ibrobust's attacks, of torchattacks' classes, and of other packages' attacks, sorted.

    Examples:
        >>> import ibrobust
        >>> {"PGD", "WorstCase", "CW"} <= set(ibrobust.list_attacks())
        True
    """
    return sorted({*(own.__name__ for own in OWN_ATTACKS), *torchattacks_names(), *(p.name for p in _plugins())})


def _plugins() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINT_GROUP))


def _load(point: EntryPoint, options: dict[str, Any]) -> Attack:
    loaded = load_plugin(point, "attack")
    if isinstance(loaded, type) and issubclass(loaded, Attack):
        return loaded(**options)
    return function_attack(loaded, label=point.name, options=options)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "")


def _unknown(name: str) -> IbrobustError:
    own = ", ".join(own.__name__ for own in OWN_ATTACKS)
    plugins = "".join(f", {point.name} of {point.module.partition('.')[0]}" for point in _plugins())
    rule = (
        f"choose {own}{plugins}, a torchattacks class by its name, transfer:MODEL, foolbox:NAME, adv_lib:NAME, "
        "or a function of yours, package.module:function."
    )
    if not torchattacks_names():
        rule += " torchattacks is not installed: python -m pip install torchattacks."
    return IbrobustError(f"Unknown attack {name!r}: {remedy(name, list_attacks(), rule)}")


def _name_and_options(text: str) -> tuple[str, str]:
    """Return the two parts of ``NAME:options``, where a name may be ``package:name``, and options may be missing."""
    name, _, rest = (part.strip() for part in text.strip().partition(":"))
    target, _, written = (part.strip() for part in rest.partition(":"))
    has_package = target and "=" not in target and _plain(name) not in map(_plain, list_attacks())
    return (f"{name}:{target}", written) if has_package else (name, rest)


def _read_options(written: str) -> dict[str, Value]:
    """Return the options of a text ``key=value,key=value``.

    Raises:
        IbrobustError: a key has no value, comes twice, or is the radius.
    """
    options: dict[str, Value] = {}
    for part in filter(None, written.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key in RADIUS_OPTIONS:
            raise IbrobustError(f"{written!r} gives {key}: the radii come from `epsilons`.")
        if not equals:
            raise IbrobustError(f"The option {key!r} has no value: write {key}=VALUE.")
        if key in options:
            raise IbrobustError(f"{written!r} gives {key} twice: give it once.")
        options[key] = _value(value)
    return options


def _value(text: str) -> Value:
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
