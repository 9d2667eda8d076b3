"""Classifications from a low-precision copy of the model, if its rounding errors cannot change them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.bfloat16.copy import ROUNDING, LowPrecisionCopy, low_precision_copy
from ibrobust.evaluation.bfloat16.speed import bfloat16_is_fast, is_faster
from ibrobust.evaluation.model_state import random_state

# Number of clean images for measuring the copy's errors before its results are used. Their logits are computed with the
# gradient anyway.
LEAST_EVIDENCE = 250

# With fewer classifications, a copy does not pay off.
LEAST_WORK = 2000

# The copy's result is accepted if its margin is this many times the largest error so far, and no longer if larger
# errors reduce that ratio below the second number.
ERROR_SAFETY = 3.0
LEAST_SAFETY = 2.0

# A margin that differs from the model's by less than this share of the largest logit, 1/64 of bfloat16's rounding,
# shows no rounding. If this holds for half the images, the outputs are (nearly) piecewise constant, like labels: a
# margin then does not show the distance to the next piece, and the copy is not used.
UNMOVED = 2.0**-14

# One in this many images is evaluated again, whatever its margin: margins near zero show only the errors near zero.
AUDITED_ONE_IN = 50

# What remains within this share of the bound after an evaluation of some images of a batch is evaluated with the whole
# batch, since float32 sums may be rounded otherwise there: 2^-16 of bfloat16's errors on a CPU, with reserve.
# On a GPU, cuDNN may choose another algorithm for another number of images; how much that changes was not measured.
SAME_BATCH = {"cpu": 2.0**-12, "cuda": 2.0**-3}

# If more than this share had to be evaluated again, the copy does not pay off.
LARGEST_SHARE = 0.4

# Number of images on which a copy has to be faster than the model.
TIMED_IMAGES = 32


class Screening:
    """Counts which of N images a model classifies correctly under each of K perturbations, mostly with a faster copy.

    The copy's margin settles an image if it exceeds `ERROR_SAFETY` times the largest error so far, relative to the
    scale of errors for that image, and also `ERROR_SAFETY` times bfloat16's rounding of the logits. Errors are measured
    on clean images first, then on every image that is evaluated in the model itself because its margin is too small,
    and on one in `AUDITED_ONE_IN` of the others. If a larger error reduces an image's ratio below `LEAST_SAFETY`, the
    model evaluates that image after all.

    Args:
        model: the reference.
        copy: of the model.
        correct: (K, N) bool on the model's device, to be filled in.
    """

    def __init__(self, model: nn.Module, copy: LowPrecisionCopy, correct: Tensor) -> None:
        self._model = model
        self._copy = copy
        self._correct = correct
        # The copy's margins over the scales of their errors; infinite if the model itself was evaluated.
        self._quotients = torch.full_like(correct, torch.inf, dtype=torch.float32)  # (K, N)
        self._margins, self._scales, self._floors = torch.zeros(3, *correct.shape, device=correct.device)  # (K, N) each
        self._same_batch = SAME_BATCH[correct.device.type]
        self._largest = torch.zeros((), device=correct.device)  # relative error
        self._evidence, self._unmoved = 0, 0
        self._evaluated, self._seen = 0, 0

    @property
    def worth_it(self) -> bool:
        """Whether few enough images had to be evaluated in the model so far."""
        return self._evaluated <= LARGEST_SHARE * self._seen

    @property
    def settled_by_copy(self) -> int:
        """Number of the K * N classifications that came from the copy alone."""
        return int((self._quotients < torch.inf).sum())

    def calibrate(self, images: Tensor, labels: Tensor, logits: Tensor) -> bool:
        """Return whether enough errors were measured; if needed, measure them on the clean images (B, C, H, W)."""
        if self._evidence < LEAST_EVIDENCE:
            exact = -margin(logits, labels)
            margins, scales, floors = self._copy.margins(images, labels)
            self._learn(exact, margins, scales)
            self._evidence += len(images)
            self._unmoved += int(((exact - margins).abs() <= UNMOVED / ROUNDING * floors).sum())
            # Attacked images have smaller margins than these, so at least this many would be evaluated again.
            bounds = ERROR_SAFETY * torch.maximum(self._largest * scales, floors)
            self._evaluated += int((~(margins.abs() > bounds)).sum())
            self._seen += len(images)
        return self._evidence >= LEAST_EVIDENCE and 2 * self._unmoved < self._evidence

    def settle(self, start: int, labels: Tensor, perturbed: Callable[[int], Tensor], doubtful: Tensor) -> None:
        """Decide which images of one batch are correct.

        Args:
            start: position of the batch's first image.
            labels: (B,).
            perturbed: row in [0, K) -> the batch's perturbed images (B, C, H, W).
            doubtful: (B,) bool, images to evaluate in the model in any case.
        """
        span = slice(start, start + len(labels))
        rows = torch.arange(len(self._correct), device=labels.device)
        for row in range(len(rows)):
            found = self._copy.margins(perturbed(row), labels)
            self._margins[row, span], self._scales[row, span], self._floors[row, span] = found
        margins, scales, floors = self._margins[:, span], self._scales[:, span], self._floors[:, span]  # (K, B) each
        usable = margins.isfinite() & scales.isfinite() & (scales > 0) & ~doubtful
        usable &= margins.abs() > ERROR_SAFETY * floors
        self._correct[:, span] = margins > 0
        self._quotients[:, span] = (margins.abs() / scales).where(usable, 0.0)
        self._seen += margins.numel()
        places = torch.arange(span.start, span.stop, device=labels.device)
        audited = (places + 7 * rows[:, None]) % AUDITED_ONE_IN == 0  # (K, B)
        self._evaluate(span, labels, perturbed, audited, ERROR_SAFETY)

    def unsettled(self) -> list[int]:
        """Return the positions of images that are no longer settled, because of larger errors."""
        return self._unsure(slice(None), LEAST_SAFETY).any(dim=0).nonzero()[:, 0].tolist()

    def settle_again(self, start: int, labels: Tensor, perturbed: Callable[[int], Tensor]) -> None:
        """Evaluate in the model those images of a batch that are no longer settled; arguments as before."""
        span = slice(start, start + len(labels))
        self._evaluate(span, labels, perturbed, torch.zeros_like(self._correct[:, span]), LEAST_SAFETY)

    def _unsure(self, span: slice, safety: float) -> Tensor:
        return ~(self._quotients[:, span] > safety * self._largest)

    def _evaluate(
        self, span: slice, labels: Tensor, perturbed: Callable[[int], Tensor], audited: Tensor, safety: float
    ) -> None:
        """Evaluate in the model the images (K, B) that are audited or uncertain, until none is uncertain."""
        while True:
            wanted = (audited | self._unsure(span, safety)) & (self._quotients[:, span] < torch.inf)
            numbers = wanted.sum(dim=1).tolist()
            if not any(numbers):
                return
            whole = [row for row, number in enumerate(numbers) if 2 * number > len(labels)]
            some = [row for row, number in enumerate(numbers) if number and row not in whole]
            if some:
                chosen = [wanted[row].nonzero()[:, 0] for row in some]
                # The images of all rows together, since a few images are not an efficient batch.
                images = torch.cat([perturbed(row)[places] for row, places in zip(some, chosen, strict=True)])
                logits = torch.cat([self._logits(part) for part in images.split(len(labels))])
                lengths = [len(places) for places in chosen]
                for row, places, own in zip(some, chosen, logits.split(lengths), strict=True):
                    margins = self._take(row, places + span.start, own, labels[places])
                    errors = torch.maximum(self._largest * self._scales[row, span], self._floors[row, span])[places]
                    if not bool((margins.abs() > self._same_batch * ERROR_SAFETY * errors).all()):
                        whole.append(row)
            for row in whole:
                self._take(row, slice(span.start, span.stop), self._logits(perturbed(row)), labels)

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        self._evaluated += len(images)
        return self._model(images)

    def _take(self, row: int, places: Tensor | slice, logits: Tensor, labels: Tensor) -> Tensor:
        """Record the model's logits of the images at `places` and update the error bound; return their margins."""
        margins = -margin(logits, labels)
        self._learn(margins, self._margins[row, places], self._scales[row, places])
        self._correct[row, places] = is_correct(logits, labels)
        self._quotients[row, places] = torch.inf
        return margins

    def _learn(self, margins: Tensor, approximate: Tensor, scales: Tensor) -> None:
        errors = (margins - approximate).abs() / scales
        # If the model itself gives NaN, there is nothing to compare; if only the copy gives NaN, its error exceeds
        # every bound.
        errors = errors.nan_to_num(torch.inf, posinf=torch.inf).where(margins.isfinite(), 0.0)
        self._largest = torch.maximum(self._largest, errors.amax())


def start_screening(model: nn.Module, images: Tensor, logits: Tensor, correct: Tensor) -> Screening | None:
    """Return a screening for `model`, or None if it would not be faster or not be reliable.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W), the first batch.
        logits: (B, C), the model's for them.
        correct: (K, N) bool for all perturbations of all images, to be filled in.
    """
    if correct.numel() < LEAST_WORK or correct.shape[1] <= 2 * LEAST_EVIDENCE or images.dtype != torch.float32:
        return None
    # In the order of their cost.
    if images.device.type not in SAME_BATCH or not bfloat16_is_fast(images.device):
        return None
    copy = low_precision_copy(model, images[:1])
    if copy is None or not _is_faster(copy, model, images[:TIMED_IMAGES]):
        return None
    return Screening(model, copy, correct) if _treats_images_alone(model, images, logits) else None


@torch.no_grad()
def _treats_images_alone(model: nn.Module, images: Tensor, logits: Tensor) -> bool:
    """Return whether logits (B, C) are independent of the other images in a batch and of random numbers."""
    some = slice(0, None, 8)
    before = random_state(images.device)
    alone = model(images[some])
    if before != random_state(images.device):
        return False
    finite = logits[logits.isfinite()]
    spread = float(finite.std()) if len(finite) > 1 else 0.0
    close = torch.isclose(alone, logits[some], rtol=1e-3, atol=1e-3 * spread, equal_nan=True)
    return bool(close.all())


@torch.no_grad()
def _is_faster(copy: LowPrecisionCopy, model: nn.Module, images: Tensor) -> bool:
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    return is_faster(lambda: copy.margins(images, labels), lambda: model(images), images.device)
