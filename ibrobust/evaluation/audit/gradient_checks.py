"""Does the gradient exist, and does it point where the loss rises?"""

from __future__ import annotations

import torch
from torch import Tensor

from ibrobust.evaluation.attacks.losses import LOSSES, margin
from ibrobust.evaluation.attacks.pgd import loss_gradient
from ibrobust.evaluation.audit.report import ATHALYE, CARLINI, KORSHUNOVA, PINTOR, Check
from ibrobust.evaluation.audit.statistics import exceeds
from ibrobust.evaluation.audit.subject import Subject, spread_evenly
from ibrobust.evaluation.model_state import derive_seed, isolated_rng

ZERO_SHARE = 0.01
# float32 has 24 bits: beyond this margin the softmax of the own class is 1, and what cross-entropy's gradient says
# about the own class is rounding noise. Beyond about 104 all of it is zero.
SATURATED_MARGIN = 17.0
HALF_LEVEL = 0.5 / 255.0
DIRECTIONS = 8
EXPLAINED = (
    0.2  # honest models explain 0.9 and more, straight-through quantisers 0.3 and more, the others next to nothing
)


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
                f"at most {ZERO_SHARE:g}, with 95% confidence",
                not exceeds(zero, total, ZERO_SHARE),
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
    """Hold g . d against central differences of the margin in random directions d, over several distances.

    From half a pixel level, not an infinitesimal step, since a gradient that is right but of a ripple finer than the
    pixels' own steps leads nowhere, to four times epsilon, since the straight-through gradient of a quantiser is that
    of many of its steps. An image's figure is the largest over the distances of
    1 - sum (measured - predicted)^2 / sum measured^2: a gradient that explains the margin at one of them leads
    somewhere. It fails where more than half of the images, with 95% confidence, are explained too little.
    """
    name, threshold = "gradient_matches_differences", f"median at least {EXPLAINED:g}, with 95% confidence"
    some = spread_evenly(len(subject.images), 64).to(subject.images.device)
    images, labels = subject.images[some], subject.labels[some]
    distances = sorted({HALF_LEVEL, subject.epsilon, min(4.0 * subject.epsilon, 1.0)})
    explained = _explained(subject, images, labels, distances)
    measured = explained[:, ~explained.isnan().all(dim=0)]  # the others' margins do not change at all
    best = measured.nan_to_num(float("-inf")).amax(dim=0)
    total = len(best)
    if total == 0:
        return Check(name, None, threshold, None, "The margin does not change at all over these distances.", CARLINI)
    figure = float(best.median())
    return Check(
        name,
        figure if figure > float("-inf") else None,
        threshold,
        not exceeds(int((best < EXPLAINED).sum()), total, 0.5),
        f"In the median of {total} images the gradient explains this share of how the margin changes over half a "
        "pixel level to four times epsilon; a shattered, cut or replaced gradient explains none.",
        f"{CARLINI}; {ATHALYE}",
    )


def _explained(subject: Subject, images: Tensor, labels: Tensor, distances: list[float]) -> Tensor:
    """Return (distances, B): the share of the margin's change that the gradient explains; NaN where there is none."""
    seed = derive_seed(subject.seed, "gradient_matches_differences", "draws")
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
            measured = (values[0] - values[1]).double().cpu()
            predicted = (gradient * (ends[0] - ends[1])).flatten(1).double().sum(dim=1).cpu()
            error += (measured - predicted).square()
            size += measured.square()
        share = torch.where(error.isfinite(), 1.0 - error / size, -torch.inf)
        shares.append(torch.where((size > 0) & size.isfinite(), share, torch.nan))
    return torch.stack(shares)


@torch.no_grad()
def check_saturation(subject: Subject) -> Check:
    """Measure the median distance of the two largest logits."""
    gaps = []
    for images, _ in _batches(subject):
        two = subject.target(images).topk(2, dim=1).values
        gaps.append(two[:, 0] - two[:, 1])
    all_gaps = torch.cat(gaps).nan_to_num(float("inf"))
    figure = float(all_gaps.median())
    return Check(
        "softmax_saturation",
        figure if figure < float("inf") else None,
        f"median at most {SATURATED_MARGIN:g}, with 95% confidence",
        not exceeds(int((all_gaps > SATURATED_MARGIN).sum()), len(all_gaps), 0.5),
        "The median logit margin, in nats, beyond which float32 rounds the predicted probability to 1 and "
        "cross-entropy's gradient to noise; a temperature leaves the predictions and mends it.",
        KORSHUNOVA,
    )


def _batches(subject: Subject) -> list[tuple[Tensor, Tensor]]:
    size = subject.batch_size
    return list(zip(subject.images.split(size), subject.labels.split(size), strict=True))


def _words(loss: str) -> str:
    return {"cross_entropy": "cross-entropy", "margin": "the logit margin"}[loss]
