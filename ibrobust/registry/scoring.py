"""Clean accuracy on a test split, for each decoder of one encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.data import Dataset, Split, to_unit_range
from ibrobust.isolated_rng import isolated_rng
from ibrobust.models import encode_in_batches
from ibrobust.registry.card import AccuracyRecord

ENCODING_BATCH = 500


@torch.no_grad()
def clean_accuracy(
    encoder: nn.Module, decoders: Mapping[str, nn.Module], latent_dim: int, dataset: Dataset
) -> dict[str, AccuracyRecord]:
    """Return the accuracy of each decoder, in evaluation mode, on the encoder's test latents.

    Args:
        encoder: images -> outputs (B, E), of which the first `latent_dim` are the latents.
        decoders: latents (B, latent_dim) -> logits (B, C), by name.
        latent_dim: D.
        dataset: its test images are used, all of them.
    """
    device = next(encoder.parameters()).device
    latents = encode_in_batches(encoder, unit_batches(dataset.test, device))[:, :latent_dim]
    labels = dataset.test.labels.to(device)
    records = {}
    for kind, decoder in decoders.items():
        logits = encode_in_batches(decoder, iter(torch.split(latents, ENCODING_BATCH)))
        records[kind] = _record(logits, labels)
    return records


def module_accuracy(model: nn.Module, dataset: Dataset) -> AccuracyRecord:
    """Return the accuracy of a model, in evaluation mode, on all test images.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K).
        dataset: its test images are used.
    """
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    with isolated_rng(0):  # a model may draw random numbers
        logits = encode_in_batches(model, unit_batches(dataset.test, device))
    return _record(logits, dataset.test.labels.to(device))


def _record(logits: Tensor, labels: Tensor) -> AccuracyRecord:
    return AccuracyRecord(correct=int(is_correct(logits, labels).sum()), total=len(labels))


def unit_batches(split: Split, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the split's images, in order, as (B, 3, H, W) floats in [0, 1] on the device."""
    for images in torch.split(split.images, ENCODING_BATCH):
        yield to_unit_range(images.to(device))
