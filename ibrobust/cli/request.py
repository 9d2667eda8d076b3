"""Whether what a command names is there, asked without torch so that a refusal comes at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ibrobust.errors import IbrobustError
from ibrobust.integrations.references import is_reference
from ibrobust.models.decoder_names import FITTED_DECODERS, HEAD
from ibrobust.registry import ModelCard, model_card

# In place of the name of a model to transfer adversarial images from.
NO_SURROGATE = "none"


def check_models(names: Sequence[str], decoders: Sequence[str] = ()) -> None:
    """Raise IbrobustError, with near names, where there is no such model or decoder."""
    own = [name for name in names if not is_reference(name)]
    for name in own:
        chosen_decoders(model_card(name), decoders)
    if names and decoders and not own:
        raise IbrobustError(f"{names[0]!r} has no decoders to choose from: leave --decoder out.")
    for decoder in decoders if not names else ():
        known = ("all", HEAD, *FITTED_DECODERS)
        if decoder not in known:
            near = difflib.get_close_matches(decoder, known, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}."
            raise IbrobustError(f"There is no decoder {decoder!r}: {hint}")


def chosen_decoders(card: ModelCard, wanted: Sequence[str]) -> list[str]:
    """Return the decoders of a model that are wanted, of which "all" stands for all; by default its first."""
    for decoder in wanted:
        if decoder != "all" and decoder not in card.decoders:
            raise IbrobustError(
                f"The model {card.name!r} has no decoder {decoder!r}: choose from {', '.join(card.decoders)}, or all."
            )
    return list(card.decoders) if "all" in wanted else list(dict.fromkeys(wanted)) or [card.decoders[0]]
