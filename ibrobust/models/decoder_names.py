"""The names of the decoders, without importing them."""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint, entry_points

from ibrobust.function_names import usable_plugins

ENTRY_POINT_GROUP = "ibrobust.decoders"

# The decoders that are fitted on a frozen encoder. A model may also have a ``head``, which is trained with it.
FITTED_DECODERS = ("gaussian_mixture", "logistic", "resfc")
HEAD = "head"

# Those that were registered in this process, see `ibrobust.models.register_decoder`.
registered_names: set[str] = set()


def decoder_plugins() -> dict[str, EntryPoint]:
    """Return the decoders that other packages offer, by name, without importing them.

    One whose name is taken, or has a dot, is skipped with a warning.
    """
    taken = dict.fromkeys((*FITTED_DECODERS, HEAD), "ibrobust")
    points = usable_plugins(entry_points(group=ENTRY_POINT_GROUP), "decoder", taken=taken)
    for point in points:
        if "." in point.name:  # the weights of a model are named by decoder.parameter
            warnings.warn(
                f"The decoder plugin {point.name!r} ({point.value}) was skipped, since its name has a dot: rename its "
                "entry point.",
                stacklevel=2,
            )
    return {point.name: point for point in points if "." not in point.name}


def fitted_decoders() -> tuple[str, ...]:
    """Return the names of all decoders that can be fitted: ibrobust's own first."""
    others = {*registered_names, *decoder_plugins()} - set(FITTED_DECODERS)
    return (*FITTED_DECODERS, *sorted(others))


def known_decoder(name: str) -> str:
    """Return a decoder's name; raise ValueError if there is no such decoder."""
    known = fitted_decoders()
    if name in known:
        return name
    raise ValueError(f"there is no decoder of this name: choose from {', '.join(known)}")
