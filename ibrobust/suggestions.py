"""Hints at the names that were probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ibrobust.errors import IbrobustError


def suggestion(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return "did you mean A or B?" with up to three similar names of any case, or `otherwise` if there are none.

    Examples:
        >>> from ibrobust.suggestions import suggestion
        >>> suggestion("cifar100", ["cifar10", "digits"], "give a folder.")
        'did you mean cifar10?'
        >>> suggestion("photos", ["cifar10", "digits"], "give a folder.")
        'give a folder.'
    """
    lowered = {entry.lower(): entry for entry in known}
    near = [lowered[entry] for entry in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def remedy(name: str, known: Iterable[str], rule: str) -> str:
    """Return a hint with similar known names, if any, and the rule."""
    hint = suggestion(name, known)
    return f"{hint} {rule[0].upper()}{rule[1:]}" if hint else rule


def no_such_model(library: str, name: str, known: Iterable[str]) -> IbrobustError:
    """Return the error for an unknown model of a library, with similar names if there are any."""
    hint = suggestion(name, known)
    return IbrobustError(f"{library} has no model {name!r}" + (f": {hint}" if hint else "."))


def a_type(value: object) -> str:
    """Return the type of a value with its article: an int, a Tensor."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"
