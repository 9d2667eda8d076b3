"""The names of the decoders, without importing them."""

from __future__ import annotations

from typing import Literal, get_args

# The decoders that are fitted on a frozen encoder. A model may also have a ``head``, which is trained with it.
FittedDecoder = Literal["gaussian_mixture", "logistic", "resfc"]
FITTED_DECODERS: tuple[str, ...] = get_args(FittedDecoder)
HEAD = "head"
