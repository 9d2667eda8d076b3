"""Attacks by name, with their options in Python or as text: PGD:steps=50,random_start=true."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Attack, NamedAttack
from ibrobust.evaluation.attacks.own_attacks import OWN_ATTACKS
from ibrobust.evaluation.attacks.surrogate import Transfer
from ibrobust.evaluation.attacks.text_form import (
    ADV_LIB,
    FOOLBOX,
    OWN_NAMES,
    TRANSFER,
    attack_plugins,
    list_attacks,
    name_and_options,
    plain,
    read_options,
    refuse_torchattacks,
    torchattacks_names,
    unknown_name,
)
from ibrobust.function_names import function_by_name, load_plugin, require_module
from ibrobust.suggestions import a_type

if TYPE_CHECKING:
    from ibrobust.evaluation.attacks.function_attack import AttackFunction


# The modules of the base classes of other packages' attacks, whose calls have other arguments than ours.
_BASES = ("torchattacks.attack", "foolbox.attacks.base")


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
        name, written = name_and_options(attack)
        return create_attack(name, **read_options(written))
    if isinstance(attack, type) and issubclass(attack, Attack):
        return attack()
    from ibrobust.evaluation.attacks.function_attack import FORM, function_attack

    kind = attack if isinstance(attack, type) else type(attack)
    library = next((base.__module__.partition(".")[0] for base in kind.__mro__ if base.__module__ in _BASES), None)
    if library is not None:
        name = f"{FOOLBOX}:{kind.__name__}" if library == FOOLBOX else kind.__name__
        offered = vars(sys.modules["foolbox.attacks" if library == FOOLBOX else library])
        has_name = offered.get(kind.__name__) is kind and (library == FOOLBOX or name in torchattacks_names())
        by_name = f"its name with its options as text, such as {name!r}, or " if has_name else ""
        raise IbrobustError(
            f"The attack is {kind.__name__} of {library} itself: give {by_name}a function that calls it, {FORM}."
        )
    if not callable(attack):
        raise IbrobustError(f"The attack is {a_type(attack)}: give a name or a function, {FORM}.")
    return function_attack(attack)


def check_attack(text: str) -> Attack | None:
    """Return an attack of ibrobust's own that is given as text, or None for another one that may exist.

    Neither torch nor another package is imported. So of other packages' attacks, the options are not checked, nor
    whether a module has the function.

    Raises:
        IbrobustError: no such attack can exist, or it is ibrobust's own and cannot work with an option.
    """
    name, written = name_and_options(text)
    options = read_options(written)
    scheme, colon, _ = name.partition(":")
    if (colon and plain(scheme) == TRANSFER) or plain(name) in map(plain, OWN_NAMES):
        return create_attack(name, **options)
    refuse_torchattacks(name)
    if colon and scheme not in (FOOLBOX, ADV_LIB):
        require_module(name, f"The attack {name!r}")
    elif not colon and plain(name) not in map(plain, list_attacks()):
        raise IbrobustError(unknown_name(name))
    return None


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
    wanted, plugins = plain(name), attack_plugins()  # which warns of those whose names are taken
    for own in OWN_ATTACKS:
        if plain(own.__name__) == wanted:
            return own(**options)
    for known in torchattacks_names():
        if plain(known) == wanted:
            from ibrobust.evaluation.attacks.torchattacks_classes import torchattacks_class

            return torchattacks_class(known)(**options)
    for point in plugins:
        if plain(point.name) == wanted:
            return _load(point, options)
    refuse_torchattacks(name)
    scheme, _, target = name.partition(":")
    if not target:
        raise IbrobustError(unknown_name(name))
    if plain(scheme) == TRANSFER:
        if "surrogate" in options:
            raise IbrobustError(f"The attack {name} gives a surrogate twice: leave surrogate out, or its name.")
        return Transfer(surrogate=target, **options)
    if scheme == FOOLBOX:
        from ibrobust.evaluation.attacks.foolbox_attacks import foolbox_attack

        return foolbox_attack(target, options)
    if scheme == ADV_LIB:
        from ibrobust.evaluation.attacks.adv_lib_attacks import adv_lib_attack

        return adv_lib_attack(target, options)
    from ibrobust.evaluation.attacks.function_attack import function_attack

    return function_attack(function_by_name(name, f"The attack {name!r}"), label=name, options=options)


def _load(point: EntryPoint, options: dict[str, Any]) -> Attack:
    loaded = load_plugin(point, "attack")
    if isinstance(loaded, type) and issubclass(loaded, Attack):
        attack = loaded(**options)
        return attack.named(point.name) if isinstance(attack, NamedAttack) else attack
    from ibrobust.evaluation.attacks.function_attack import function_attack

    return function_attack(loaded, label=point.name, options=options)
