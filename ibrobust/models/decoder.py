"""The decoders by name: how each is built for stored weights, and how each is fitted to latents."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.models.decoder_names import HEAD
from ibrobust.models.fitted_decoder import decoder_class, name_of_fitted
from ibrobust.models.gaussian_mixture import GaussianMixtureDecoder, fit_gaussian_mixture
from ibrobust.models.head import MLPHead, head_for_weights
from ibrobust.models.logistic import LogisticDecoder, fit_logistic
from ibrobust.models.resfc import DEFAULT_UNITS, ResFCDecoder, fit_resfc


def build_decoder(name: str, weights: Mapping[str, Tensor], *, latent_dim: int, num_classes: int) -> nn.Module:
    """Return the decoder `name` in the size of its weights, which are not loaded yet."""
    if name == "gaussian_mixture":
        return GaussianMixtureDecoder(latent_dim, num_classes)
    if name == "logistic":
        return LogisticDecoder(latent_dim, num_classes)
    if name == "resfc":
        units = weights["output.weight"].shape[1] if "output.weight" in weights else DEFAULT_UNITS
        blocks = {key.split(".")[1] for key in weights if key.startswith("blocks.")}
        return ResFCDecoder(latent_dim, num_classes, units=units, **({"num_blocks": len(blocks)} if blocks else {}))
    if name == HEAD:
        # Dropout and DropConnect act in training only: in evaluation, every head is its linear layers.
        return head_for_weights(weights, latent_dim=latent_dim, num_classes=num_classes)
    return decoder_class(name).for_weights(weights, latent_dim=latent_dim, num_classes=num_classes)


def fit_decoder(
    name: str,
    latents: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    noise_variance: float,
    seed: int,
    resfc_units: int = DEFAULT_UNITS,
) -> nn.Module:
    """Return the decoder `name` fitted to clean training latents (N, D) and labels (N,) of a frozen encoder."""
    if name == "gaussian_mixture":
        return fit_gaussian_mixture(latents, labels, num_classes, noise_variance=noise_variance)
    if name == "logistic":
        return fit_logistic(latents, labels, num_classes)
    if name == "resfc":
        return fit_resfc(latents, labels, num_classes, seed=seed, units=resfc_units)
    return decoder_class(name).fit(latents, labels, num_classes=num_classes, noise_variance=noise_variance, seed=seed)


def decoder_name(decoder: nn.Module) -> str:
    """Return the name of a decoder's type in stored models; raise IbrobustError if the type cannot be stored."""
    kinds = {GaussianMixtureDecoder: "gaussian_mixture", LogisticDecoder: "logistic", ResFCDecoder: "resfc"}
    kinds |= {nn.Linear: HEAD, MLPHead: HEAD}
    name = kinds.get(type(decoder)) or name_of_fitted(decoder)
    if name is None:
        raise IbrobustError(
            f"A decoder of type {type(decoder).__name__} cannot be stored: use nn.Linear, ibrobust.models.MLPHead, "
            "GaussianMixtureDecoder, LogisticDecoder, ResFCDecoder, or a FittedDecoder that is registered."
        )
    return name
