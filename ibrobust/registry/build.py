"""The classifier of a card and its weights, from any source."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.full_precision import default_dtype
from ibrobust.isolated_rng import isolated_rng
from ibrobust.models import FITTED_DECODERS, HEAD, Encoder, ImageClassifier, SampledClassifier, build_decoder
from ibrobust.registry.card import ModelCard
from ibrobust.registry.outside import build_outside
from ibrobust.registry.store import pack_weights


def build_model(
    card: ModelCard,
    weights: Mapping[str, Tensor],
    *,
    decoder: str | None = None,
    num_samples: int | None = None,
    device: torch.device,
    trust: bool = False,
) -> nn.Module:
    """Return the model of any card, see `build_classifier` and `build_outside`."""
    if card.architecture is None:
        return build_classifier(card, weights, decoder=decoder, num_samples=num_samples, device=device)
    return build_outside(card, weights, decoder=decoder, num_samples=num_samples, device=device, trust=trust)


@default_dtype(torch.float32)
def build_classifier(
    card: ModelCard,
    weights: Mapping[str, Tensor],
    *,
    decoder: str | None = None,
    num_samples: int | None = None,
    device: torch.device,
) -> ImageClassifier:
    """Return ibrobust's own model of a card: images (B, 3, H, W) in [0, 1] -> logits (B, C), in evaluation mode.

    Args:
        card: of the model.
        weights: its tensors, already checked against the card's SHA-256.
        decoder: one of the card's decoders; its first by default.
        num_samples: average the prediction over samples of a Gaussian encoder's latents, see `SampledClassifier`; by
            default its mean is decoded.
        device: where to put the model.

    Raises:
        IbrobustError: the decoder does not exist, there is nothing to sample, or the weights do not fit the card.
    """
    assert card.width is not None
    assert card.latent_dim is not None
    assert card.encoder_outputs is not None
    chosen = decoder if decoder is not None else card.decoders[0]
    if chosen not in card.decoders:
        raise IbrobustError(
            f"The model {card.name!r} has no decoder {chosen!r}: choose one of {', '.join(card.decoders)}."
        )
    parts, of_encoder = _part(weights, f"decoders.{chosen}."), _part(weights, "encoder.")
    # As many channels as the encoder was trained with: 3, or 1 for grey images.
    scale = [0.5] * (of_encoder["mean"].numel() if "mean" in of_encoder else 3)
    try:
        # Without initial values, since the weights are replaced anyway.
        pooled = "latent.weight" not in of_encoder and card.encoder_outputs == 8 * card.width
        with torch.device("meta"):
            encoder = Encoder(
                width=card.width,
                latent_dim=None if pooled else card.encoder_outputs,
                mean=scale,
                std=scale,
                fixed_power=card.fixed_power,
            )
        _load(encoder, of_encoder)
        module = _decoder(chosen, parts, latent_dim=card.latent_dim, num_classes=len(card.dataset.class_names))
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise IbrobustError(
            f"The weights of {card.name!r} do not fit its card ({fault}): both must belong to one model."
        ) from error
    if num_samples is not None:
        if card.encoder_outputs != 2 * card.latent_dim:
            raise IbrobustError(
                f"The encoder of {card.name!r} gives points, not distributions: leave num_samples out, or choose a "
                "model trained with dvib or ceb."
            )
        model: ImageClassifier = SampledClassifier(encoder, module, num_samples=num_samples)
    else:
        model = ImageClassifier(encoder, module, latent_dim=card.latent_dim)
    return model.to(device).to_fast_memory_format().eval()


def _decoder(name: str, weights: Mapping[str, Tensor], *, latent_dim: int, num_classes: int) -> nn.Module:
    """Return the decoder `name` with its stored weights; raise RuntimeError if they do not fit."""
    if name in (*FITTED_DECODERS, HEAD):
        with torch.device("meta"):
            own = build_decoder(name, weights, latent_dim=latent_dim, num_classes=num_classes)
        _load(own, weights)
        return own
    # The constructor of another package may compute and draw random numbers, and its dtypes are its own.
    with isolated_rng():
        decoder = build_decoder(name, weights, latent_dim=latent_dim, num_classes=num_classes)
    decoder.load_state_dict(weights)
    return decoder


@torch.no_grad()
def require_storable(name: str, decoder: nn.Module, latents: Tensor, num_classes: int) -> None:
    """Raise IbrobustError unless a decoder gives logits, and gives the same when it is loaded from its stored weights.

    Args:
        name: of the decoder.
        decoder: fitted.
        latents: (N, D), some of which are decoded.
        num_classes: C.
    """
    from safetensors.torch import load

    some = latents[:8]
    logits = decoder.eval()(some) if isinstance(decoder, nn.Module) else decoder
    if not isinstance(logits, Tensor) or logits.shape != (len(some), num_classes):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise IbrobustError(f"The decoder {name!r} gives {shape}, not logits of shape {(len(some), num_classes)}.")
    remedy = "keep all that it learns in parameters and buffers, in the dtype that they have in its constructor."
    try:
        _, content = pack_weights(name, decoder.state_dict())
        twin = _decoder(name, _part(load(content), ""), latent_dim=latents.shape[1], num_classes=num_classes)
        again = twin.to(some.device).eval()(some)
        same = again.dtype == logits.dtype and torch.allclose(again, logits, equal_nan=True)
    except Exception as error:  # whatever for_weights and forward do
        raise IbrobustError(
            f"The decoder {name!r} cannot be stored, since its weights do not fit what for_weights returns "
            f"({' '.join(str(error).split())}): {remedy}"
        ) from error
    if not same:
        raise IbrobustError(
            f"The decoder {name!r} cannot be stored, since it gives other logits when it is built from its weights: "
            f"{remedy}"
        )


def _load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    dtypes = {key: tensor.dtype for key, tensor in module.state_dict().items()}
    module.load_state_dict(weights, assign=True)
    for key, dtype in dtypes.items():
        if key in weights and weights[key].dtype != dtype:
            raise RuntimeError(f"{key} is of {weights[key].dtype}, not {dtype}")


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    # Float32, whatever half precision they are stored in.
    return {
        key.removeprefix(prefix): tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        for key, tensor in weights.items()
        if key.startswith(prefix)
    }
