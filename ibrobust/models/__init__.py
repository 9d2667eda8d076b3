"""Images (B, 3, H, W) in [0, 1] to logits (B, C)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.models.classifier import ImageClassifier, encode_in_batches
    from ibrobust.models.decoder import build_decoder, decoder_name, fit_decoder
    from ibrobust.models.decoder_names import FITTED_DECODERS, HEAD, fitted_decoders
    from ibrobust.models.dropconnect import DropConnectLinear
    from ibrobust.models.encoder import Encoder
    from ibrobust.models.fitted_decoder import FittedDecoder, decoder_class, register_decoder
    from ibrobust.models.fixed_power import FixedPower
    from ibrobust.models.gaussian_mixture import GaussianMixtureDecoder, fit_gaussian_mixture
    from ibrobust.models.head import MLPHead, build_head, evaluation_head
    from ibrobust.models.logistic import LogisticDecoder, fit_logistic
    from ibrobust.models.noise import ZERO_ENTROPY_VARIANCE, ZeroEntropyNoise
    from ibrobust.models.resfc import ResFCDecoder, fit_resfc
    from ibrobust.models.sampled import SampledClassifier
    from ibrobust.models.wrapped import (
        LogitsOf,
        Normalized,
        Resized,
        TwoLogits,
        logits_of,
        normalized,
        resized,
        two_logits,
    )

_HOMES = {
    "ibrobust.models.dropconnect": "DropConnectLinear",
    "ibrobust.models.encoder": "Encoder",
    "ibrobust.models.decoder_names": "FITTED_DECODERS HEAD fitted_decoders",
    "ibrobust.models.fitted_decoder": "FittedDecoder decoder_class register_decoder",
    "ibrobust.models.fixed_power": "FixedPower",
    "ibrobust.models.gaussian_mixture": "GaussianMixtureDecoder fit_gaussian_mixture",
    "ibrobust.models.classifier": "ImageClassifier encode_in_batches",
    "ibrobust.models.logistic": "LogisticDecoder fit_logistic",
    "ibrobust.models.wrapped": "LogitsOf Normalized Resized TwoLogits logits_of normalized resized two_logits",
    "ibrobust.models.head": "MLPHead build_head evaluation_head",
    "ibrobust.models.resfc": "ResFCDecoder fit_resfc",
    "ibrobust.models.sampled": "SampledClassifier",
    "ibrobust.models.noise": "ZERO_ENTROPY_VARIANCE ZeroEntropyNoise",
    "ibrobust.models.decoder": "build_decoder decoder_name fit_decoder",
}

__all__ = [
    "FITTED_DECODERS",
    "HEAD",
    "ZERO_ENTROPY_VARIANCE",
    "DropConnectLinear",
    "Encoder",
    "FittedDecoder",
    "FixedPower",
    "GaussianMixtureDecoder",
    "ImageClassifier",
    "LogisticDecoder",
    "LogitsOf",
    "MLPHead",
    "Normalized",
    "ResFCDecoder",
    "Resized",
    "SampledClassifier",
    "TwoLogits",
    "ZeroEntropyNoise",
    "build_decoder",
    "build_head",
    "decoder_class",
    "decoder_name",
    "encode_in_batches",
    "evaluation_head",
    "fit_decoder",
    "fit_gaussian_mixture",
    "fit_logistic",
    "fit_resfc",
    "fitted_decoders",
    "logits_of",
    "normalized",
    "register_decoder",
    "resized",
    "two_logits",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
