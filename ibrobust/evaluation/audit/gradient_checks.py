"""Does the gradient exist, and does it point where the loss rises?"""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.epsilon import format_epsilon
from ibrobust.evaluation.attacks.losses import LOSSES, margin
from ibrobust.evaluation.attacks.pgd import loss_gradient
from ibrobust.evaluation.audit.report import ATHALYE, CARLINI, KORSHUNOVA, NATS, PINTOR, Check
from ibrobust.evaluation.audit.subject import Subject
from ibrobust.evaluation.logit_distance import HALF_LEVEL
from ibrobust.evaluation.statistics import exceeds
from ibrobust.isolated_rng import isolated_rng
from ibrobust.seeds import evaluation_seed
from ibrobust.spread import spread_evenly

ZERO_SHARE = 0.01
# float32 has 24 bits: beyond this margin the softmax of the own class is 1, and what cross-entropy's gradient says
# about the own class is rounding noise. Beyond about 104 all of it is zero.
SATURATED_MARGIN = 17.0
DIRECTIONS = 8
# As in the code that Pintor et al. published; honest models of CIFAR-10 change by 1% to 6%.
NOISE = 4.0 / 255.0
UNSTABLE = 0.1
# Shipped models explain 0.98 and more, straight-through quantisers 0.3 and more, useless gradients next to nothing.
EXPLAINED = 0.2
MOSTLY_EXPLAINED = 0.9


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
                f"at most {100 * ZERO_SHARE:g}%, with 95% confidence",
                not exceeds(zero, total, ZERO_SHARE),
                f"{zero} of {total} images have a gradient of {_words(loss)} that is exactly zero in every pixel: "
                "a gradient attack does not change them.",
                f"{KORSHUNOVA}; {PINTOR}",
            )
        )
        checks.append(
            Check(
                f"nonfinite_gradient_{loss}",
                nonfinite / total,
                "at most 0%",
                nonfinite == 0,
                f"{nonfinite} of {total} images have a NaN or infinite gradient of {_words(loss)}: no attack can "
                "follow it.",
                ATHALYE,
            )
        )
    return checks


def check_gradient_matches_differences(subject: Subject) -> list[Check]:
    """Hold g . d against central differences of the margin in random directions d, over several distances.

    From half a pixel level, not an infinitesimal step, since a gradient that is right but of a ripple finer than the
    pixels' own steps leads nowhere, to four times epsilon, since the straight-through gradient of a quantiser is that
    of many of its steps. An image's value is the largest over the distances of
    1 - sum (measured - predicted)^2 / sum measured^2: a gradient that explains the margin at one of them leads
    somewhere. It fails where more than half of the images, with 95% confidence, are explained too little. The first
    check is for a gradient that explains nearly nothing, the second one for a gradient that explains only a part, such
    as that of a model whose other part is detached.
    """
    some = spread_evenly(subject.labels, 64).to(subject.images.device)
    images, labels = subject.images[some], subject.labels[some]
    distances = sorted({HALF_LEVEL, subject.epsilon, min(4.0 * subject.epsilon, 1.0)})
    explained = _explained(subject, images, labels, distances)
    measured = explained[:, ~explained.isnan().all(dim=0)]  # the others' margins do not change at all
    best = measured.nan_to_num(float("-inf")).amax(dim=0)
    total = len(best)
    value = float(best.median()) if total else float("-inf")
    meaning = (
        f"In the median of {total} images the gradient explains this share of how the margin changes over half a "
        "pixel level to four times epsilon; "
    )
    return [
        Check(
            name,
            value if value > float("-inf") else None,
            f"median at least {100 * least:g}%, with 95% confidence",
            not exceeds(int((best < least).sum()), total, 0.5) if total else None,
            meaning + why if total else "The margin does not change at all over these distances.",
            f"{CARLINI}; {ATHALYE}",
        )
        for name, least, why in (
            ("gradient_matches_differences", EXPLAINED, "a shattered, cut or replaced gradient explains none."),
            ("gradient_explains_most", MOSTLY_EXPLAINED, "if it explains a part, attacks may miss what the rest does."),
        )
    ]


def _explained(subject: Subject, images: Tensor, labels: Tensor, distances: list[float]) -> Tensor:
    """Return (distances, B): the share of the margin's change that the gradient explains; NaN without a change."""
    seed = evaluation_seed(subject.seed, "gradient_matches_differences", "draws")
    # A stochastic model draws the same numbers at every call here: otherwise the noise would be compared with itself.
    with isolated_rng(seed):
        gradient, _, _ = loss_gradient(subject.target, images, labels, margin)
    generator = subject.generator("gradient_matches_differences")
    directions = [
        torch.randint(0, 2, images.shape, generator=generator).to(images) * 2.0 - 1.0 for _ in range(DIRECTIONS)
    ]
    shares = []
    for distance in distances:
        error, size = torch.zeros(len(images), dtype=torch.float64), torch.zeros(len(images), dtype=torch.float64)
        for signs in directions:
            ends = [(images + side * distance * signs).clamp(0.0, 1.0) for side in (1.0, -1.0)]
            values = []
            for end in ends:
                with torch.no_grad(), isolated_rng(seed):
                    values.append(margin(subject.target(end), labels))
            measured = (values[0] - values[1]).cpu().double()
            predicted = (gradient * (ends[0] - ends[1])).flatten(1).cpu().double().sum(dim=1)
            error += (measured - predicted).square()
            size += measured.square()
        share = torch.where(error.isfinite(), 1.0 - error / size, -torch.inf)
        shares.append(torch.where((size > 0) & size.isfinite(), share, torch.nan))
    return torch.stack(shares)


@torch.no_grad()
def check_stable_predictions(subject: Subject) -> Check:
    """Measure how much the margin changes under small random noise, as a share of itself.

    It is the indicator of unstable predictions of Pintor et al., with their threshold and the radius of their code.
    They average the change of the attack's loss over images. Here it is the margin's, which does not saturate, and the
    median, which does not depend on a few images near a boundary.
    """
    name, threshold = "predictions_stable", f"median at most {100 * UNSTABLE:g}%, with 95% confidence"
    some = spread_evenly(subject.labels, 64).to(subject.images.device)
    images, labels = subject.images[some], subject.labels[some]
    seed = evaluation_seed(subject.seed, name, "draws")
    generator = subject.generator(name)
    with isolated_rng(seed):
        before = margin(subject.target(images), labels)
    changes = torch.zeros_like(before)
    for _ in range(DIRECTIONS):
        noise = (2.0 * torch.rand(images.shape, generator=generator) - 1.0).to(images) * NOISE
        # A stochastic model draws the same numbers at every call here.
        with isolated_rng(seed):
            changes += (margin(subject.target((images + noise).clamp(0.0, 1.0)), labels) - before).abs() / DIRECTIONS
    share = changes / before.abs().clamp(min=torch.finfo(before.dtype).tiny)
    share = share[changes.isfinite() & before.isfinite()]
    total = len(share)
    if total == 0:
        return Check(name, None, threshold, None, "No margin is a finite number.", PINTOR)
    value = float(share.median())
    return Check(
        name,
        value if value < float("inf") else None,
        threshold,
        not exceeds(int((share > UNSTABLE).sum()), total, 0.5),
        f"In the median of {total} images, random noise of at most {format_epsilon(NOISE)} changes the margin by this "
        "share of itself; if it is large, the loss is too rough for attacks that follow the gradient.",
        PINTOR,
    )


@torch.no_grad()
def check_saturation(subject: Subject) -> Check:
    """Measure the median distance of the two largest logits."""
    gaps = []
    for images, _ in _batches(subject):
        two = subject.target(images).topk(2, dim=1).values
        gaps.append(two[:, 0] - two[:, 1])
    all_gaps = torch.cat(gaps).nan_to_num(float("inf"))
    value = float(all_gaps.median())
    return Check(
        "softmax_saturation",
        value if value < float("inf") else None,
        f"median at most {SATURATED_MARGIN:g} nats, with 95% confidence",
        not exceeds(int((all_gaps > SATURATED_MARGIN).sum()), len(all_gaps), 0.5),
        "The median logit margin, in nats, beyond which float32 rounds the predicted probability to 1 and "
        "cross-entropy's gradient to noise; dividing the logits by a temperature keeps the predictions and fixes it.",
        KORSHUNOVA,
        NATS,
    )


def _batches(subject: Subject) -> list[tuple[Tensor, Tensor]]:
    size = subject.batch_size
    return list(zip(subject.images.split(size), subject.labels.split(size), strict=True))


def _words(loss: str) -> str:
    return {"cross_entropy": "cross-entropy", "margin": "the logit margin"}[loss]
