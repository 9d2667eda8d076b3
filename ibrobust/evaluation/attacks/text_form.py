"""Attacks as text, NAME:key=value,key=value, and which names exist; without torch, so that a typo is told at once."""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from ibrobust.errors import IbrobustError
from ibrobust.function_names import usable_plugins
from ibrobust.suggestions import remedy

ENTRY_POINT_GROUP = "ibrobust.attacks"
OWN_NAMES = ("FGSM", "PGD", "AutoAttack", "WorstCase")
TRANSFER, FOOLBOX, ADV_LIB = "transfer", "foolbox", "adv_lib"
# Of torchattacks: they run other attacks.
_WRAPPERS = {"MultiAttack", "LGV"}
# The names under which attacks of other packages take their radius.
RADIUS_OPTIONS = ("eps", "max_epsilon")

Value = bool | int | float | str


def list_attacks() -> list[str]:
    """Return the names of ibrobust's attacks, of torchattacks' classes, and of other packages' attacks, sorted.

    Examples:
        >>> import ibrobust
        >>> {"PGD", "WorstCase", "CW"} <= set(ibrobust.list_attacks())
        True
    """
    return sorted({*OWN_NAMES, *torchattacks_names(), *(point.name for point in attack_plugins())})


def torchattacks_names() -> list[str]:
    """Return the names of torchattacks' classes, without those that wrap other attacks; none if it is missing.

    They are read from the text of the package: importing it takes seconds.
    """
    spec = find_spec("torchattacks")
    if spec is None or spec.origin is None:
        return []
    for statement in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in statement.targets):
            return [name for name in ast.literal_eval(statement.value) if name not in _WRAPPERS]
    return []


def attack_plugins() -> list[EntryPoint]:
    """Return what installed packages offer as attacks; one whose name is taken is skipped with a warning."""
    points = entry_points(group=ENTRY_POINT_GROUP)
    if not points:
        return []
    taken = dict.fromkeys(torchattacks_names(), "torchattacks")
    taken |= dict.fromkeys((*OWN_NAMES, TRANSFER, FOOLBOX, ADV_LIB), "ibrobust")
    return usable_plugins(points, "attack", taken=taken, plain=plain)


def plain(name: str) -> str:
    """Return a name without case and underscores, in which names are compared."""
    return name.strip().lower().replace("_", "")


def name_and_options(text: str) -> tuple[str, str]:
    """Return the two parts of ``NAME:options``, where a name may be ``package:name``, and options may be missing."""
    name, _, rest = (part.strip() for part in text.strip().partition(":"))
    target, _, written = (part.strip() for part in rest.partition(":"))
    has_package = target and "=" not in target and plain(name) not in map(plain, list_attacks())
    return (f"{name}:{target}", written) if has_package else (name, rest)


def read_options(written: str) -> dict[str, Value]:
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


def unknown_name(name: str) -> str:
    """Return a sentence on an attack that does not exist, with similar names."""
    plugins = "".join(f", {point.name} of {point.module.partition('.')[0]}" for point in attack_plugins())
    rule = (
        f"choose {', '.join(map(_as_in_help, OWN_NAMES))}{plugins}, a torchattacks class by its name, "
        f"{TRANSFER}:MODEL, {FOOLBOX}:NAME, {ADV_LIB}:NAME, or a function of yours, package.module:function."
    )
    if not torchattacks_names():
        rule += " torchattacks is not installed: python -m pip install torchattacks."
    return f"Unknown attack {name!r}: {remedy(name, [_as_in_help(known) for known in list_attacks()], rule)}"


def _as_in_help(name: str) -> str:
    return "worst_case" if name == "WorstCase" else name


def refuse_torchattacks(name: str) -> None:
    """Raise IbrobustError for ``torchattacks:CW``, since its classes are chosen by their names alone."""
    scheme, _, target = name.partition(":")
    if scheme == "torchattacks":
        found = next((known for known in torchattacks_names() if plain(known) == plain(target)), None)
        raise IbrobustError(
            f"The attack {name!r} is one of torchattacks': write {found}." if found else unknown_name(target)
        )


def no_option(name: str, key: str, options: tuple[str, ...]) -> str:
    """Return a sentence on an option that an attack does not have, with similar ones."""
    rule = f"it takes {', '.join(options) or 'none'}."
    return f"The attack {name} has no option {key!r}: {remedy(key, options, rule)}"


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
