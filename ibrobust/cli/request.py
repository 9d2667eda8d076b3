"""Checks of the names that a command receives, without torch, so that an error comes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from ibrobust.data.names import check_exists, with_option
from ibrobust.devices import check_device_exists
from ibrobust.epsilon import check_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import require_linf
from ibrobust.evaluation.attacks.by_name import check_attack
from ibrobust.evaluation.attacks.surrogate import SurrogateAttack
from ibrobust.integrations.references import check_reference, is_reference
from ibrobust.models.decoder_names import HEAD, fitted_decoders
from ibrobust.registry import ModelCard, model_card
from ibrobust.seeds import check_seed
from ibrobust.suggestions import suggestion

# Given instead of a surrogate's name.
NO_SURROGATE = "none"


def require_different(files: Mapping[str, Path | None]) -> None:
    """Raise IbrobustError if two options, each with its file, name one file: one would replace the other."""
    for (option, file), (other, same) in combinations(files.items(), 2):
        if file and same and file.resolve() == same.resolve():
            raise IbrobustError(f"{option} and {other} both name {str(same)!r}: give two files.")


def check_models(names: Sequence[str], decoders: Sequence[str] = ()) -> None:
    """Raise IbrobustError, with similar names, if a model or decoder does not exist."""
    own = [name for name in names if not is_reference(name)]
    for name in own:
        chosen_decoders(model_card(name), decoders)
    if names and decoders and not own:
        raise IbrobustError(f"{names[0]!r} has no choice of decoders: leave --decoder out.")
    for name in filter(is_reference, names):
        check_reference(name)
    for decoder in decoders if not names else ():
        known = ("all", HEAD, *fitted_decoders())
        if decoder not in known:
            hint = suggestion(decoder, known, f"choose from {', '.join(known)}.")
            raise IbrobustError(f"Unknown decoder {decoder!r}: {hint}")


def check_names(
    *,
    attacks: Sequence[str] = (),
    epsilons: Sequence[float] = (),
    surrogate: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    seed: int = 0,
    device: str | None = None,
    audits: bool = False,
) -> None:
    """Raise IbrobustError, with similar names, if an attack, a surrogate, a data set or a device cannot exist.

    The seed, and the epsilons in the norms of ibrobust's own attacks, are checked as well. If `audits` is set, these
    attacks must be in L-infinity.
    """
    for text in attacks:
        own = check_attack(text)
        if own is None:
            continue
        if audits:
            require_linf(own)
        for epsilon in epsilons:
            check_epsilon(epsilon, norm=own.norm)
        if isinstance(own, SurrogateAttack) and isinstance(own.surrogate, str):
            check_models([own.surrogate])
    if surrogate not in (None, NO_SURROGATE):
        check_models([str(surrogate)])
    if dataset is not None:
        check_exists(dataset if split is None else with_option(dataset, "test", split))
    if device is not None:
        check_device_exists(device)
    check_seed(seed)


def chosen_decoders(card: ModelCard, wanted: Sequence[str]) -> list[str]:
    """Return the requested decoders of a model; "all" means all of them, and the default is its first."""
    for decoder in wanted:
        if decoder != "all" and decoder not in card.decoders:
            raise IbrobustError(
                f"The model {card.name!r} has no decoder {decoder!r}: choose from {', '.join(card.decoders)}, or all."
            )
    return list(card.decoders) if "all" in wanted else list(dict.fromkeys(wanted)) or [card.decoders[0]]
