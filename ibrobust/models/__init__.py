"""Images (B, 3, H, W) in [0, 1] to logits (B, C)."""

from ibrobust.models.classifier import ImageClassifier, encode_in_batches
from ibrobust.models.decoder import FITTED_DECODERS, HEAD, build_decoder, decoder_name, fit_decoder
from ibrobust.models.dropconnect import DropConnectLinear
from ibrobust.models.encoder import Encoder
from ibrobust.models.fixed_power import FixedPower
from ibrobust.models.gaussian_mixture import GaussianMixtureDecoder, fit_gaussian_mixture
from ibrobust.models.head import build_head, evaluation_head
from ibrobust.models.logistic import LogisticDecoder, fit_logistic
from ibrobust.models.noise import ZERO_ENTROPY_VARIANCE, ZeroEntropyNoise
from ibrobust.models.resfc import ResFCDecoder, fit_resfc
from ibrobust.models.sampled import SampledClassifier

__all__ = [
    "FITTED_DECODERS",
    "HEAD",
    "ZERO_ENTROPY_VARIANCE",
    "DropConnectLinear",
    "Encoder",
    "FixedPower",
    "GaussianMixtureDecoder",
    "ImageClassifier",
    "LogisticDecoder",
    "ResFCDecoder",
    "SampledClassifier",
    "ZeroEntropyNoise",
    "build_decoder",
    "build_head",
    "decoder_name",
    "encode_in_batches",
    "evaluation_head",
    "fit_decoder",
    "fit_gaussian_mixture",
    "fit_logistic",
    "fit_resfc",
]
