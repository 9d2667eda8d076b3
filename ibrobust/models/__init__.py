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
    "DropConnectLinear": "ibrobust.models.dropconnect",
    "Encoder": "ibrobust.models.encoder",
    "FITTED_DECODERS": "ibrobust.models.decoder_names",
    "FittedDecoder": "ibrobust.models.fitted_decoder",
    "FixedPower": "ibrobust.models.fixed_power",
    "GaussianMixtureDecoder": "ibrobust.models.gaussian_mixture",
    "HEAD": "ibrobust.models.decoder_names",
    "ImageClassifier": "ibrobust.models.classifier",
    "LogisticDecoder": "ibrobust.models.logistic",
    "LogitsOf": "ibrobust.models.wrapped",
    "MLPHead": "ibrobust.models.head",
    "Normalized": "ibrobust.models.wrapped",
    "ResFCDecoder": "ibrobust.models.resfc",
    "Resized": "ibrobust.models.wrapped",
    "SampledClassifier": "ibrobust.models.sampled",
    "TwoLogits": "ibrobust.models.wrapped",
    "ZERO_ENTROPY_VARIANCE": "ibrobust.models.noise",
    "ZeroEntropyNoise": "ibrobust.models.noise",
    "build_decoder": "ibrobust.models.decoder",
    "build_head": "ibrobust.models.head",
    "decoder_class": "ibrobust.models.fitted_decoder",
    "decoder_name": "ibrobust.models.decoder",
    "encode_in_batches": "ibrobust.models.classifier",
    "evaluation_head": "ibrobust.models.head",
    "fit_decoder": "ibrobust.models.decoder",
    "fitted_decoders": "ibrobust.models.decoder_names",
    "fit_gaussian_mixture": "ibrobust.models.gaussian_mixture",
    "fit_logistic": "ibrobust.models.logistic",
    "fit_resfc": "ibrobust.models.resfc",
    "logits_of": "ibrobust.models.wrapped",
    "normalized": "ibrobust.models.wrapped",
    "register_decoder": "ibrobust.models.fitted_decoder",
    "resized": "ibrobust.models.wrapped",
    "two_logits": "ibrobust.models.wrapped",
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
