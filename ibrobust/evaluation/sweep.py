"""FGSM at many epsilons for the price of one gradient."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.epsilon import Epsilons, format_epsilon, read_epsilons
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.pgd import nonfinite_flags
from ibrobust.evaluation.bfloat16.screening import Screening, start_screening
from ibrobust.evaluation.grad_mode import grad_mode_flags
from ibrobust.evaluation.guarded_model import guard, image_gradient
from ibrobust.evaluation.hints import warn_of_mistakes
from ibrobust.evaluation.inputs import ArrayLike, check_batch_size, images_and_labels, unit_range
from ibrobust.evaluation.logit_distance import batch_flags
from ibrobust.evaluation.model_state import evaluation_mode, model_device, model_reference
from ibrobust.evaluation.predictions import count_classes, probability_flags
from ibrobust.isolated_rng import isolated_rng
from ibrobust.live_line import following
from ibrobust.readable import Readable, percent
from ibrobust.seeds import check_seed, evaluation_seed

try:
    from torchattacks.attack import Attack
except ModuleNotFoundError:

    class Attack:  # type: ignore[no-redef]
        """What `FGSMSweep` uses of torchattacks' base class, if it is not installed."""

        def __init__(self, name: str, model: nn.Module) -> None:
            self.attack, self.model = name, model

        def set_device(self, device: torch.device) -> None:
            self.device = device

        def get_logits(self, images: Tensor) -> Tensor:
            return self.model(images)

        def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
            return self.forward(images, labels)  # type: ignore[attr-defined]


MOST_SHOWN = 4  # epsilons in one line


@dataclass(frozen=True, repr=False)
class SweepResult(Readable):
    """Counts of an FGSM sweep.

    Attributes:
        epsilons: perturbation sizes in [0, 1] pixel scale, in the given order.
        correct: images classified correctly under attack, for each epsilon.
        clean_correct: images classified correctly without an attack.
        zero_gradient: images whose gradient is exactly zero in every pixel. FGSM does not change them, so they were not
            attacked.
        nonfinite_gradient: images with a NaN or infinite gradient in some pixel. The sign of NaN is 0, as in
            torchattacks: FGSM does not change such a pixel.
        total: number of images.
        settled_in_bfloat16: number of classifications under attack that came from a copy of the model in bfloat16; not
            compared, since it depends on the machine, while the counts do not.
        flags: warnings, one sentence each, if the model's logits for an image depend on the other images of its batch,
            on random draws, or on whether a gradient is taken; if they are probabilities; or if a gradient is NaN or
            infinite.
    """

    epsilons: tuple[float, ...]
    correct: tuple[int, ...]
    clean_correct: int
    zero_gradient: int
    nonfinite_gradient: int
    total: int
    settled_in_bfloat16: int = field(default=0, compare=False)
    flags: tuple[str, ...] = ()

    @property
    def accuracy(self) -> tuple[float, ...]:
        """Accuracy under attack in [0, 1], for each epsilon, over all images."""
        return tuple(count / self.total for count in self.correct)

    @property
    def clean_accuracy(self) -> float:
        """Accuracy in [0, 1] without an attack."""
        return self.clean_correct / self.total

    @property
    def zero_gradient_share(self) -> float:
        """Share in [0, 1] of images whose gradient is exactly zero."""
        return self.zero_gradient / self.total

    @property
    def nonfinite_gradient_share(self) -> float:
        """Share in [0, 1] of images with a gradient that is not finite."""
        return self.nonfinite_gradient / self.total

    def _sentence(self) -> str:
        left = [f"{accuracy} at {epsilon}" for epsilon, accuracy in self._rows()[1:]]
        shown = ", ".join(left[:MOST_SHOWN]) + (", ..." if len(left) > MOST_SHOWN else "")
        bound = "at most " if self.flags else ""
        unattacked = f"; {percent(self.zero_gradient_share)} have a zero gradient" if self.zero_gradient else ""
        return f"{percent(self.clean_accuracy)} of {self.total:,} images clean, FGSM leaves {bound}{shown}{unattacked}"

    def _rows(self) -> list[tuple[str, str]]:
        numbers = zip(self.epsilons, self.accuracy, strict=True)
        return [
            ("epsilon", "accuracy"),
            *((format_epsilon(epsilon), percent(share, is_bound=bool(self.flags))) for epsilon, share in numbers),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and their accuracies, for JSON."""
        return {
            **asdict(self),
            "epsilons": list(self.epsilons),
            "correct": list(self.correct),
            "accuracy": list(self.accuracy),
            "clean_accuracy": self.clean_accuracy,
            "flags": list(self.flags),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> SweepResult:
        """Return the record that `to_dict` wrote."""
        return cls(
            epsilons=tuple(fields["epsilons"]),
            correct=tuple(fields["correct"]),
            clean_correct=fields["clean_correct"],
            zero_gradient=fields["zero_gradient"],
            nonfinite_gradient=fields["nonfinite_gradient"],
            total=fields["total"],
            settled_in_bfloat16=fields.get("settled_in_bfloat16", 0),
            flags=tuple(fields.get("flags", ())),
        )


class FGSMSweep(Attack):  # type: ignore[misc]
    """FGSM (Goodfellow et al. 2015) at several epsilons.

    The sign of the gradient does not depend on epsilon: x' = clip(x + epsilon * sign(grad)). One gradient serves
    all, and each adversarial image equals, bit for bit, that of torchattacks.FGSM on the same batch, unless the model
    computes in half precision.

    Args:
        model: images in [0, 1] -> logits.
        epsilons: in [0, 1] pixel scale.
    """

    def __init__(self, model: nn.Module, epsilons: Sequence[float]) -> None:
        with redirect_stdout(io.StringIO()):  # it prints if a model has no parameters that show its device
            super().__init__("FGSMSweep", guard(model))
        self.set_device(model_device(model))
        self.epsilons = tuple(epsilons)
        self.supported_mode = ["default"]

    def gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient (B, C, H, W) of the batch's mean cross-entropy, and the clean logits (B, K).

        It is that of the sum if the model computes in half precision, where most gradients of the mean underflow.
        """
        images = self._points(images).clone().requires_grad_()
        labels = labels.to(self.device)
        with torch.enable_grad():
            logits = self.get_logits(images)
            # The mean over the batch, as in torchattacks: dividing by the batch size can turn the smallest gradients
            # into zeros, and in float32 these must be the same images here.
            reduction = "sum" if self.model.in_half_precision else "mean"
            gradient = image_gradient(F.cross_entropy(logits, labels, reduction=reduction), images)
        return gradient, logits.detach()

    def perturb(self, images: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
        """Return adversarial images (B, C, H, W) in [0, 1]."""
        return _move(self._points(images), gradient.sign(), epsilon)

    def _points(self, images: Tensor) -> Tensor:
        # In half precision, a small epsilon cannot be added exactly.
        half = images.dtype in (torch.float16, torch.bfloat16)
        return images.detach().to(self.device, torch.float32 if half else images.dtype)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial images (K, B, C, H, W) in [0, 1], one batch for each of the K epsilons."""
        gradient, _ = self.gradient(images, labels)
        return torch.stack([self.perturb(images, gradient, epsilon) for epsilon in self.epsilons])


def _move(images: Tensor, sign: Tensor, epsilon: float) -> Tensor:
    # In one pass; epsilon times a sign is exact, so that the rounding is the same.
    return torch.add(images, sign, alpha=epsilon).clamp_(min=0, max=1)


def fgsm_sweep(
    model: nn.Module,
    images: ArrayLike,
    labels: ArrayLike,
    epsilons: Epsilons,
    *,
    batch_size: int = 250,
    seed: int = 0,
    screen: bool = True,
    progress: bool | Callable[[int, int], None] | None = None,
) -> SweepResult:
    """Return the accuracy of `model` under FGSM at every epsilon, and the number of images that were not attacked.

    An image with NaN logits, or an infinite one for its own class, counts as wrong, although argmax gives some class.
    Model mode, parameter gradients and random state are restored afterwards.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), K >= 2; see `GuardedModel`. It runs on its own
            device, in evaluation mode.
        images: (N, C, H, W) floats in [0, 1], or uint8 in [0, 255], on any device; a tensor, a NumPy array or a list.
        labels: (N,) integers in [0, K), likewise.
        epsilons: in [0, 1] pixel scale, numbers or text as "8/255", at least one; one that occurs twice gets two rows.
        batch_size: images per gradient.
        seed: of all random numbers, of which only a model can draw any; each batch has its own.
        screen: classify the attacked images by a copy of the model in bfloat16 first if that is faster, and in the
            model itself if the copy's margin is too small for its rounding, see `Screening`. Gradients are always
            the model's own. With False the model classifies all images.
        progress: whether to show it; by default in a notebook or on a terminal. Or a function, called with (images
            done, total images) after each batch.

    Raises:
        IbrobustError: an argument is not of that form, or the model's output is not (B, K) logits.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = torch.nn.Flatten()  # images of two pixels: the brighter pixel is the class
        >>> images = torch.tensor([[0.2, 0.8], [0.55, 0.45]]).reshape(2, 1, 1, 2)
        >>> result = ibrobust.fgsm_sweep(model, images, [1, 0], [0.1, 0.4])
        >>> result.clean_accuracy, result.accuracy
        (1.0, (0.5, 0.0))
    """
    epsilons = read_epsilons(epsilons)
    if not epsilons:
        raise IbrobustError("No epsilon was given: give at least one, for example 8/255.")
    batch_size, seed = check_batch_size(batch_size), check_seed(seed)
    images, labels = images_and_labels(images, labels)
    guarded = guard(model)
    device = model_device(guarded)
    reference = model_reference(guarded)
    with evaluation_mode(model), following(progress, "FGSM", lambda line: line.show) as report:
        # On the device until the end: reading a count in each batch would wait for the device each time.
        clean, zero, nonfinite = torch.zeros(3, len(images), dtype=torch.bool, device=device)
        correct = torch.zeros(len(epsilons), len(images), dtype=torch.bool, device=device)
        count_classes(guarded, unit_range(images[:1], reference), labels)
        warn_of_mistakes(guarded, images, labels, batch_size=batch_size)
        some = unit_range(images[:batch_size], reference)
        flags = (*batch_flags(guarded, some), *grad_mode_flags(guarded, some))
        attack = FGSMSweep(guarded, epsilons)
        screening: Screening | None = None

        def attacked(start: int) -> tuple[slice, Tensor, Tensor, Tensor, Tensor]:
            """Return the batch that begins at `start`: its span, images, labels, gradient and clean logits."""
            span = slice(start, min(start + batch_size, len(images)))
            batch = unit_range(images[span], reference)
            targets = labels[span].to(device).long()
            return span, batch, targets, *attack.gradient(batch, targets)

        def sweep_batch(start: int) -> None:
            nonlocal screening, flags
            span, batch, targets, gradient, logits = attacked(start)
            finite = gradient.flatten(1).isfinite().all(dim=1)
            clean[span], nonfinite[span] = is_correct(logits, targets), ~finite
            zero[span] = (gradient.flatten(1) == 0).all(dim=1)
            perturbed = partial(_row, batch, gradient.sign(), epsilons)
            if start == 0:
                flags = (*flags, *probability_flags(logits))
            if start == 0 and screen:
                with isolated_rng():
                    screening = start_screening(guarded, batch, logits, correct)
            if screening and screening.calibrate(batch, targets, logits) and screening.worth_it:
                screening.settle(start, targets, perturbed, ~finite | ~logits.isfinite().all(dim=1))
            else:
                for row in range(len(epsilons)):
                    with torch.no_grad():
                        correct[row, span] = is_correct(guarded(perturbed(row)), targets)

        for number, start in enumerate(range(0, len(images), batch_size)):
            with isolated_rng(evaluation_seed(seed, "FGSM", number)):
                sweep_batch(start)
            if report:
                report(min(start + batch_size, len(images)), len(images))
        while screening and (unsettled := screening.unsettled()):
            for start in sorted({place // batch_size * batch_size for place in unsettled}):
                _, batch, targets, gradient, _ = attacked(start)
                screening.settle_again(start, targets, partial(_row, batch, gradient.sign(), epsilons))
        return SweepResult(
            epsilons=tuple(epsilons),
            correct=tuple(correct.sum(dim=1).tolist()),
            clean_correct=int(clean.sum()),
            zero_gradient=int(zero.sum()),
            nonfinite_gradient=int(nonfinite.sum()),
            total=len(images),
            settled_in_bfloat16=screening.settled_by_copy if screening else 0,
            flags=(*flags, *nonfinite_flags(int(nonfinite.sum()))),
        )


def _row(images: Tensor, sign: Tensor, epsilons: Sequence[float], row: int) -> Tensor:
    return _move(images, sign, epsilons[row])
