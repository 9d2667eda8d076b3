"""Does the gradient exist, and does it point where the loss rises?"""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.evaluation.audit.report import ATHALYE, CARLINI, KORSHUNOVA, PINTOR, Check
from ibrobust.evaluation.audit.subject import Subject, spread_evenly
from ibrobust.evaluation.losses import LOSSES, margin
from ibrobust.evaluation.model_state import derive_seed
from ibrobust.evaluation.pgd import loss_gradient

ZERO_SHARE = 0.01
# float32 has 24 bits: beyond this margin the softmax of the own class is 1, and what cross-entropy's gradient says
# about the own class is rounding noise. Beyond about 104 all of it is zero.
SATURATED_MARGIN = 17.0
HALF_LEVEL = 0.5 / 255.0
DIRECTIONS = 8
EXPLAINED = 0.5


def check_gradients(subject: Subject) -> list[Check]:
    """Count zero, NaN and infinite gradients under cross-entropy and under the margin, which does not saturate."""
    checks = []
    for loss in ("cross_entropy", "margin"):
        zero = nonfinite = 0
        for images, labels in _batches(subject):
            gradient, _, _ = loss_gradient(subject.target, images, labels, LOSSES[loss])
            flat = gradient.flatten(1)
            zero += int((flat == 0).all(dim=1).sum())
            nonfinite += int((~flat.isfinite()).any(dim=1).sum())
        total = len(subject.images)
        checks.append(
            Check(
                f"zero_gradient_{loss}",
                zero / total,
                f"at most {ZERO_SHARE:g}",
                zero / total <= ZERO_SHARE,
                f"{zero} of {total} images have a gradient of {_words(loss)} that is exactly zero in every pixel: "
                "a gradient attack leaves them as they are.",
                f"{KORSHUNOVA}; {PINTOR}",
            )
        )
        checks.append(
            Check(
                f"nonfinite_gradient_{loss}",
                nonfinite / total,
                "at most 0",
                nonfinite == 0,
                f"{nonfinite} of {total} images have a NaN or infinite gradient of {_words(loss)}: no attack can "
                "follow it.",
                ATHALYE,
            )
        )
    return checks


def check_gradient_matches_differences(subject: Subject) -> Check:
    """Hold g . d against central differences of the margin over half a pixel level, in random directions d.

    Half a level, not an infinitesimal step: a gradient that is right but of a ripple finer than the pixels' own
    steps leads nowhere. The figure is the median over images of 1 - sum (measured - predicted)^2 / sum measured^2.
    """
    name, threshold = "gradient_matches_differences", f"at least {EXPLAINED:g}"
    some = spread_evenly(len(subject.images), 64).to(subject.images.device)
    # The point itself must leave room on both sides within [0, 1].
    points = subject.images[some].clamp(HALF_LEVEL, 1.0 - HALF_LEVEL)
    labels = subject.labels[some]
    seed = derive_seed(subject.seed, name, "draws")
    # A stochastic model draws the same numbers at every call here: otherwise the noise would be compared with itself.
    torch.manual_seed(seed)
    gradient, _, _ = loss_gradient(subject.target, points, labels, margin)
    generator = subject.generator(name)
    predicted, measured = [], []
    for _ in range(DIRECTIONS):
        signs = torch.randint(0, 2, points.shape, generator=generator).to(points) * 2.0 - 1.0
        with torch.no_grad():
            torch.manual_seed(seed)
            above = margin(subject.target(points + HALF_LEVEL * signs), labels)
            torch.manual_seed(seed)
            below = margin(subject.target(points - HALF_LEVEL * signs), labels)
        measured.append((above - below).double() / (2.0 * HALF_LEVEL))
        predicted.append((gradient * signs).flatten(1).double().sum(dim=1))
    truth, guess = torch.stack(measured), torch.stack(predicted)  # (directions, B)
    size = truth.square().sum(dim=0)
    explained = (1.0 - (truth - guess).square().sum(dim=0) / size)[(size > 0) & size.isfinite()]
    if len(explained) == 0:
        return Check(name, None, threshold, None, "The margin does not change at all over half a pixel level.", CARLINI)
    figure = float(explained.nan_to_num(float("-inf")).median())
    return Check(
        name,
        figure if figure > float("-inf") else None,
        threshold,
        figure >= EXPLAINED,
        f"In the median of {len(explained)} images the gradient explains this share of how the margin changes over "
        "half a pixel level; a shattered, cut or replaced gradient explains none.",
        f"{CARLINI}; {ATHALYE}",
    )


@torch.no_grad()
def check_saturation(subject: Subject) -> Check:
    """Measure the median distance of the two largest logits."""
    gaps = []
    for images, _ in _batches(subject):
        two = subject.target(images).topk(2, dim=1).values
        gaps.append(two[:, 0] - two[:, 1])
    figure = float(torch.cat(gaps).nan_to_num(float("inf")).median())
    return Check(
        "softmax_saturation",
        figure if figure < float("inf") else None,
        f"at most {SATURATED_MARGIN:g}",
        figure <= SATURATED_MARGIN,
        "The median logit margin, in nats, beyond which float32 rounds the predicted probability to 1 and "
        "cross-entropy's gradient to noise; a temperature leaves the predictions and mends it.",
        KORSHUNOVA,
    )


def _batches(subject: Subject) -> list[tuple[Tensor, Tensor]]:
    size = subject.batch_size
    return list(zip(subject.images.split(size), subject.labels.split(size), strict=True))


def _words(loss: str) -> str:
    return {"cross_entropy": "cross-entropy", "margin": "the logit margin"}[loss]
