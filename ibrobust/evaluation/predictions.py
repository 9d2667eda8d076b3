"""The outputs of a model: their form, the number of classes, and which images are classified correctly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.errors import IbrobustError


def guessing_accuracy(labels: Tensor, num_classes: int) -> float:
    """Return the accuracy in (0, 1] of a guesser: the share of the most frequent of the labels (N,), at least 1 / K."""
    return max(float(labels.bincount().max()) / len(labels), 1.0 / num_classes)


FEWEST_SINGLE = 8  # images: the logits of fewer may all be in [0, 1]


def is_distribution(outputs: Tensor) -> Tensor:
    """Return (B,) bool: the outputs (B, K) are numbers in [0, 1] that sum to 1, so probabilities and no logits.

    Those of a model in half precision sum to 1 only up to its rounding, also after they were made float32. A single
    probability that was taken for a logit stands beside a logit of 0, see `two_logits`: it is in [0, 1] for all images.
    """
    if outputs.shape[1] == 2 and len(outputs) >= FEWEST_SINGLE:
        zero, single = outputs.T
        if bool((zero == 0).all() & (single >= 0).all() & (single <= 1).all()):
            return torch.ones_like(zero, dtype=torch.bool)
    halves = (dtype for dtype in (torch.float16, torch.bfloat16) if torch.equal(outputs, outputs.to(dtype).to(outputs)))
    rounding = max([1e-4, *(4 * torch.finfo(dtype).eps for dtype in halves)])
    return ((outputs >= 0) & (outputs <= 1 + rounding)).all(dim=1) & ((outputs.sum(dim=1) - 1).abs() < rounding)


PROBABILITIES = "The model's outputs are probabilities, not logits: attacks that follow the gradient are weaker."


def probability_flags(outputs: Tensor) -> tuple[str, ...]:
    """Return a warning if most of the outputs (B, K) are probabilities."""
    return (PROBABILITIES,) if float(is_distribution(outputs).float().mean()) > 0.5 else ()


_ONE_LOGIT = "ibrobust.two_logits(model) makes two logits of one that is positive for class 1"
_LOGITS_INSIDE = "ibrobust.logits_of(model) takes them out of such an output"
_ONE_OUTPUT = "wrap it in a module whose forward pass returns the logits alone"
_CLASSES = "if these are the predicted classes, return the logits before the argmax"


def check_logits(logits: Tensor, images: Tensor) -> Tensor:
    """Return the logits; raise IbrobustError unless they are (B, K) numbers, one row per image."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images) or logits.is_complex():
        numbers = "complex numbers" if isinstance(logits, Tensor) and logits.is_complex() else "an output"
        form = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
        raise IbrobustError(
            f"The model gave {numbers} of {form} for {len(images)} images: (B, classes) logits are needed"
            f"{_remedy(logits)}."
        )
    return logits


def _remedy(output: object) -> str:
    if isinstance(output, Tensor):
        if output.dim() != 1:
            return ""
        return f"; {_ONE_LOGIT if output.is_floating_point() else _CLASSES}"
    if hasattr(output, "logits") or (isinstance(output, Mapping) and "logits" in output):
        return f"; {_LOGITS_INSIDE}"
    return f"; {_ONE_OUTPUT}" if isinstance(output, (tuple, list, Mapping)) else ""


@torch.no_grad()
def count_classes(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return K, from the model's logits for one image.

    Asked once, since a look at the labels of every batch would make the host wait for the device.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K).
        images: (N, C, H, W) in [0, 1], on the model's device.
        labels: (N,), all of those to be used.

    Raises:
        IbrobustError: the output is not (B, K) logits with K >= 2, or a label is not below K.
    """
    num_classes = check_logits(model(images[:1]), images[:1]).shape[1]
    if num_classes < 2:
        raise IbrobustError(
            f"The model gives {num_classes} logit for an image, and needs one for each class: {_ONE_LOGIT}."
        )
    low, high = int(labels.min()), int(labels.max())
    if high >= num_classes:
        remedy = "give it images of its own data set"
        if low == 1 and high == num_classes:
            remedy = "classes are counted from 0, so give labels - 1"
        raise IbrobustError(f"The labels go up to {high} and the model has {num_classes} classes: {remedy}.")
    return num_classes


@torch.no_grad()
def correct_in_batches(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int) -> Tensor:
    """Return (N,) bool, which of the images (N, C, H, W) in [0, 1] the model classifies correctly."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([is_correct(check_logits(model(batch), batch), targets) for batch, targets in parts])
