"""Decoders of other packages: their base class, and how they are found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.function_names import load_plugin
from ibrobust.models.decoder_names import FITTED_DECODERS, HEAD, decoder_plugins, fitted_decoders, registered_names


class FittedDecoder(nn.Module):
    """Base class of decoders that are fitted to a frozen encoder's latents: latents (B, D) -> logits (B, C).

    A subclass writes `forward` and `fit`. Its constructor takes ``latent_dim`` and ``num_classes``, or it writes
    `for_weights` too. What it learns is in parameters and buffers, which are stored with the model. Before a training,
    it is also fitted to a few random latents, to find out whether it can be stored.
    """

    @classmethod
    def fit(
        cls, latents: Tensor, labels: Tensor, *, num_classes: int, noise_variance: float, seed: int
    ) -> FittedDecoder:
        """Return the decoder fitted to the training images.

        Args:
            latents: (N, D) clean latents.
            labels: (N,) int64.
            num_classes: C.
            noise_variance: of the noise that was added to each latent in training.
            seed: for anything random.
        """
        raise NotImplementedError

    @classmethod
    def for_weights(cls, weights: Mapping[str, Tensor], *, latent_dim: int, num_classes: int) -> FittedDecoder:  # noqa: ARG003
        """Return a decoder in the size of these stored weights, which are loaded afterwards."""
        make: Callable[..., FittedDecoder] = cls
        return make(latent_dim, num_classes)


Kind = TypeVar("Kind", bound=type[FittedDecoder])

_registered: dict[str, type[FittedDecoder]] = {}


def register_decoder(name: str) -> Callable[[Kind], Kind]:
    """Return a class decorator to register a `FittedDecoder` under `name`, for recipes and for stored models.

    Defining the same class again, as in a notebook, replaces it.

    Raises:
        IbrobustError: the name is taken by another class, or has a dot.
    """
    if "." in name:
        raise IbrobustError(f"The decoder name {name!r} has a dot: choose a name without one.")

    def register(kind: Kind) -> Kind:
        known = _registered.get(name, kind)
        same_place = (known.__module__, known.__qualname__) == (kind.__module__, kind.__qualname__)
        if name in (*FITTED_DECODERS, HEAD) or not same_place:
            raise IbrobustError(f"The decoder {name!r} already exists: register this one under another name.")
        _registered[name] = kind
        registered_names.add(name)
        return kind

    return register


def decoder_class(name: str) -> type[FittedDecoder]:
    """Return the class that is registered under `name`, or that a package offers as an entry point.

    Raises:
        IbrobustError: there is none, or its package fails.
    """
    if name in _registered:
        return _registered[name]
    point = decoder_plugins().get(name)
    if point is None:
        raise IbrobustError(
            f"There is no decoder {name!r}, but {', '.join(fitted_decoders())}: install the package that has it, or "
            "import the module that registers it."
        )
    kind = load_plugin(point, "decoder")
    if not (isinstance(kind, type) and issubclass(kind, FittedDecoder)):
        raise IbrobustError(f"The decoder {name!r} ({point.value}) is no ibrobust.models.FittedDecoder.")
    return _registered.setdefault(name, kind)


def require_fit(name: str) -> None:
    """Raise IbrobustError if no decoder is registered under `name`, or if its class cannot be fitted."""
    kind = decoder_class(name)
    for method in ("fit", "forward"):
        if inspect.getattr_static(kind, method) is inspect.getattr_static(FittedDecoder, method):
            raise IbrobustError(f"The decoder {name!r} has no {method}: write it in its class {kind.__name__}.")
    try:
        inspect.signature(kind.fit).bind(None, None, num_classes=2, noise_variance=0.0, seed=0)
    except TypeError as error:
        raise IbrobustError(
            f"The fit of the decoder {name!r} cannot be called ({error}): make it a class method that takes latents, "
            "labels, and num_classes, noise_variance and seed by name."
        ) from error


def name_of_fitted(decoder: nn.Module) -> str | None:
    """Return the name under which a decoder's class is registered, or None."""
    return next((name for name, kind in _registered.items() if type(decoder) is kind), None)
