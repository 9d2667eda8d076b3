"""Is the model what an attack takes it for: deterministic, batch-independent, with logits, and any good?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.evaluation.audit.report import CARLINI, CROCE, Check
from ibrobust.evaluation.audit.subject import Subject
from ibrobust.evaluation.grad_mode import grad_mode_distance
from ibrobust.evaluation.guarded_model import GuardedModel
from ibrobust.evaluation.logit_distance import (
    MANY_REPEATS,
    MOVED,
    REPEATED,
    SAME,
    gradient_distance,
    logit_distance,
    slightly_moved,
)
from ibrobust.evaluation.model_state import random_state
from ibrobust.evaluation.predictions import guessing_accuracy, is_distribution
from ibrobust.evaluation.statistics import chance_ceiling, exceeds
from ibrobust.isolated_rng import isolated_rng
from ibrobust.seeds import evaluation_seed


@torch.no_grad()
def check_determinism(model: nn.Module, images: Tensor) -> Check:
    """Compare five passes over the same images (B, C, H, W); if they draw random numbers, many passes over a few.

    The same for the images slightly moved. If all passes agree, compare two gradients of a few images.
    """
    distance, allowed = 0.0, SAME
    meaning = "Passes over the same images give the same logits, so that one pass tells whether an image is broken."
    for points in (images, slightly_moved(images)):
        first, state = model(points), random_state(points.device)
        # A model that gives NaN every time is deterministic; the gradient checks have their say about it.
        distance = max(distance, *(logit_distance(first, model(points)) for _ in range(4)))
        if distance <= SAME and random_state(points.device) != state:  # draws that seldom change anything
            some = points[:REPEATED]
            once = model(some)
            distance = max(distance, *(logit_distance(once, model(some)) for _ in range(MANY_REPEATS)))
    if distance <= SAME and (apart := gradient_distance(model, images)) > MOVED:
        distance, allowed = apart, MOVED
        meaning = "Passes over the same images give the same gradients, so that attacks do not follow noise."
    return Check(
        "determinism",
        distance,
        f"at most {allowed:g}",
        distance <= allowed,
        meaning,
        CROCE,
        "",
    )


@torch.no_grad()
def check_logits_not_probabilities(model: nn.Module, images: Tensor) -> Check:
    """Count the images (B, C, H, W) whose outputs are probabilities, see `is_distribution`."""
    distribution = is_distribution(model(images))
    share = float(distribution.float().mean())
    return Check(
        "logits_not_probabilities",
        share,
        "at most 50%",
        share <= 0.5,
        f"{int(distribution.sum())} of {len(images)} outputs are probabilities, in [0, 1] with a sum of 1, or a single "
        "one instead of a logit: cross-entropy of a softmax flattens the loss.",
        CROCE,
    )


@torch.no_grad()
def check_batch_invariance(model: nn.Module, images: Tensor, *, stochastic: bool) -> Check:
    """Compare the logits of images (B, C, H, W) together and each alone; does not apply to a stochastic model."""
    distance = None
    if len(images) == 1:
        meaning = "Not checked: there is only one image."
    elif stochastic:
        meaning = "Not checked: the logits differ from pass to pass in any case."
    else:
        distance = logit_distance(model(images), torch.cat([model(image) for image in images.split(1)]))
        meaning = (
            "An image's logits do not depend on the images beside it, so an attack may finish some images before "
            "others."
        )
    passed = distance <= SAME if distance is not None else None
    return Check("batch_invariance", distance, f"at most {SAME:g}", passed, meaning, CARLINI, "")


def check_grad_mode(model: GuardedModel, images: Tensor, *, stochastic: bool) -> Check:
    """Compare the logits of a few images with and without a gradient; does not apply to a stochastic model."""
    distance = None if stochastic else grad_mode_distance(model, images)
    return Check(
        "same_logits_with_gradient",
        distance,
        f"at most {MOVED:g}",
        None if distance is None else distance <= MOVED,
        "Not checked: the logits differ from pass to pass in any case."
        if stochastic
        else "The logits are the same when a gradient is taken, so that attacks see the model that is judged.",
        CARLINI,
        "",
    )


def check_clean_accuracy(subject: Subject) -> Check:
    """Compare the clean accuracy with guessing; does not apply if there are too few images to tell, or one label."""
    correct, total = int(subject.clean.sum()), len(subject.clean)
    chance = guessing_accuracy(subject.labels, subject.num_classes)
    ceiling = chance_ceiling(total, chance)
    passed: bool | None = None
    if correct > ceiling:
        passed = True
    elif chance < 1.0 and exceeds(total - correct, total, (1.0 - chance) / 2.0):  # nearer to guessing than to 100%
        passed = False
    return Check(
        "clean_accuracy",
        correct / total,
        f"above {100 * ceiling / total:.3g}%",
        passed,
        f"{correct} of {total} images are correct without an attack; a guesser exceeds the threshold once in 100 "
        "trials, and only correct images can be attacked.",
        CARLINI,
    )


def check_epsilon_zero(subject: Subject) -> Check:
    """Run the attack with epsilon 0."""
    every = torch.ones_like(subject.clean)
    attacked = subject.pgd(every, "epsilon zero", loss="margin", epsilon=0.0, steps=1).images
    # A stochastic model draws the same numbers for both.
    seed = evaluation_seed(subject.seed, "epsilon zero", "draws")
    with isolated_rng(seed):
        before = subject.wrong(every, subject.images)
    with isolated_rng(seed):
        after = subject.wrong(every, attacked)
    differing = int((before != after).sum())
    return Check(
        "epsilon_zero_equals_clean",
        differing / len(before),
        "at most 0%",
        differing == 0,
        f"{differing} of {len(before)} images change under an attack of epsilon 0, which should change none: images "
        "must be counted in the same way with and without an attack.",
        CARLINI,
    )
