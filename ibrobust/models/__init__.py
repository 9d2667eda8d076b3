"""Images (B, 3, H, W) in [0, 1] to logits (B, C)."""

from ibrobust.models.classifier import ImageClassifier
from ibrobust.models.decoder import FITTED_DECODERS, HEAD, build_decoder, fit_decoder
from ibrobust.models.dropconnect import DropConnectLinear
from ibrobust.models.encoder import Encoder
from ibrobust.models.gaussian_mixture import GaussianMixtureDecoder, fit_gaussian_mixture
from ibrobust.models.logistic import LogisticDecoder, fit_logistic
from ibrobust.models.noise import ZERO_ENTROPY_VARIANCE, ZeroEntropyNoise
from ibrobust.models.resfc import ResFCDecoder, fit_resfc

__all__ = [
    "FITTED_DECODERS",
    "HEAD",
    "ZERO_ENTROPY_VARIANCE",
    "DropConnectLinear",
    "Encoder",
    "GaussianMixtureDecoder",
    "ImageClassifier",
    "LogisticDecoder",
    "ResFCDecoder",
    "ZeroEntropyNoise",
    "build_decoder",
    "fit_decoder",
    "fit_gaussian_mixture",
    "fit_logistic",
    "fit_resfc",
]
