"""Warnings about a model or labels that are probably not what the user meant."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ibrobust.correctness import is_correct
from ibrobust.evaluation.guarded_model import GuardedModel
from ibrobust.evaluation.inputs import unit_range
from ibrobust.evaluation.model_state import model_reference
from ibrobust.evaluation.predictions import guessing_accuracy, probability_flags
from ibrobust.isolated_rng import isolated_rng
from ibrobust.spread import spread_evenly

LOOKED_AT = 256  # images
FEWEST = 20  # images: of fewer, an honest model may have none right


def warn_of_mistakes(model: GuardedModel, images: Tensor, labels: Tensor, *, batch_size: int) -> None:
    """Warn if the model gives NaN, infinity or probabilities, or only guesses; look at `LOOKED_AT` images at most.

    Args:
        model: in evaluation mode.
        images: (N, C, H, W) floats in [0, 1], or uint8 in [0, 255].
        labels: (N,).
        batch_size: images per batch.
    """
    some, reference = spread_evenly(labels, LOOKED_AT).to(images.device), model_reference(model)
    with isolated_rng(), torch.no_grad():
        outputs = torch.cat([model(unit_range(batch, reference)) for batch in images[some].split(batch_size)])
    targets = labels[some.to(labels.device)].to(outputs.device).long()
    total, classes, correct = len(outputs), outputs.shape[1], int(is_correct(outputs, targets).sum())
    # A user may attack the images of one class alone, which a constant answer would all have right.
    chance = guessing_accuracy(targets, classes) if bool((targets != targets[0]).any()) else 1.0 / classes
    if without := int((outputs.isnan() | outputs.isposinf()).any(dim=1).sum()):
        warnings.warn(
            f"The model gives NaN or infinite logits for {without} of {total} images, which count as wrong: look for a "
            "division by zero, a logarithm or an overflow in it.",
            stacklevel=3,
        )
    elif total >= FEWEST and correct / total <= chance:
        warnings.warn(
            f"{correct} of {total} images are classified correctly without an attack, which is not better than "
            f"guessing one of {classes} classes, or the most frequent one: check that the labels start at 0 and are in "
            "the order of the model's classes, and that the model gets its images as in training.",
            stacklevel=3,
        )
    if probability_flags(outputs):
        warnings.warn(
            "The model's outputs are probabilities, which make attacks that follow the gradient weaker: remove the "
            "softmax or sigmoid at its end, so that it gives logits.",
            stacklevel=3,
        )
