"""Fast adversarial training, with recovery from catastrophic overfitting."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.collectives import gather, own_share
from ibrobust.errors import IbrobustError
from ibrobust.objectives.base import Loss, Objective
from ibrobust.processes import count

# The step of the single-step attack, in epsilons (Wong, Rice, Kolter 2020).
FGSM_STEP = 1.25

# The multi-step attack for the comparison with the single-step one; it replaces the latter if that has failed.
PGD_STEPS = 5
PGD_STEP = 0.5

# Steps between comparisons: an eighth of the time, and on a GPU as rare a wait as the trainer's own.
STEPS_BETWEEN_CHECKS = 20

# A model that has overfitted to the single step withstands it almost always, and several steps almost never. Otherwise
# the two accuracies differ by a few points.
LARGEST_GAP = 0.2


class AdversarialTraining(Objective):
    """min E[max_{|delta| <= epsilon} -log q(y | x + delta)], in nats: FGSM from a random start (Wong et al. 2020).

    In catastrophic overfitting, the model learns to withstand only the single step. Every `STEPS_BETWEEN_CHECKS` steps,
    the accuracy of the batch under the single step is compared with that under `PGD_STEPS` smaller ones. If it is
    higher by more than `LARGEST_GAP`, the steps up to the next check train on the images of the latter (the recovery of
    Li, Wang, Jana, Carin 2020).

    Args:
        latent_dim: D.
        num_classes: C.
        epsilon: largest change of a pixel, in [0, 1] scale.
        head: latents (B, D) -> logits (B, C); linear by default.
    """

    options: ClassVar[tuple[str, ...]] = ("head", "epsilon")

    def __init__(
        self, *, latent_dim: int, num_classes: int, head: nn.Module | None = None, epsilon: float = 8 / 255
    ) -> None:
        super().__init__()
        if not 0.0 < epsilon <= 1.0:
            raise IbrobustError(f"epsilon is {epsilon}: a value in (0, 1], for example {8 / 255:.4f}, is needed.")
        self.epsilon = epsilon
        self.head: nn.Module = head if head is not None else nn.Linear(latent_dim, num_classes)
        self.steps_done = 0
        self.recovering = False
        self._gap = 0.0

    def training_images(self, images: Tensor, labels: Tensor, latents_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Return adversarial images (B, 3, H, W) in [0, 1], at most epsilon from `images`, for one training step."""

        def logits_of(x: Tensor) -> Tensor:
            # For the whole batch, so that the draws of a stochastic head do not depend on how the batch is divided.
            return own_share(self.head(gather(latents_of(x)))).float()

        single = None
        if self.steps_done % STEPS_BETWEEN_CHECKS == 0:
            single = self._fgsm(images, labels, logits_of)
            several = self._pgd(images, labels, logits_of)
            with torch.no_grad():
                right = [gather(logits_of(x).argmax(dim=1) == labels).float().mean() for x in (single, several)]
            self._gap = float(right[0] - right[1])
            self.recovering = self._gap > LARGEST_GAP
            if self.recovering:
                single = several
        self.steps_done += 1
        if single is not None:
            return single
        return (self._pgd if self.recovering else self._fgsm)(images, labels, logits_of)

    def forward(self, latents: Tensor, labels: Tensor) -> Loss:
        """Return the loss of adversarial images' latents (B, D) with labels (B,).

        Terms: ``H[Y|Z]`` in nats; ``FGSM - PGD accuracy`` in [-1, 1], at the last check; ``share of PGD steps``.
        """
        loss = F.cross_entropy(self.head(latents).float(), labels)
        gap, recovering = loss.new_full((), self._gap), loss.new_full((), float(self.recovering))
        return Loss(loss, {"H[Y|Z]": loss, "FGSM - PGD accuracy": gap, "share of PGD steps": recovering})

    def _fgsm(self, images: Tensor, labels: Tensor, logits_of: Callable[[Tensor], Tensor]) -> Tensor:
        start = self._random_start(images)
        return self._step(images, start, FGSM_STEP, labels, logits_of)

    def _pgd(self, images: Tensor, labels: Tensor, logits_of: Callable[[Tensor], Tensor]) -> Tensor:
        changed = self._random_start(images)
        for _ in range(PGD_STEPS):
            changed = self._step(images, changed, PGD_STEP, labels, logits_of)
        return changed

    def _random_start(self, images: Tensor) -> Tensor:
        # Drawn for the whole batch, of which these images may be a share.
        batch = (count() * len(images), *images.shape[1:])
        draws = torch.rand(batch, dtype=images.dtype, device=images.device)  # (B, 3, H, W)
        offsets = self.epsilon * (2.0 * own_share(draws) - 1.0)
        return (images + offsets).clamp_(0.0, 1.0)

    def _step(
        self, images: Tensor, start: Tensor, size: float, labels: Tensor, logits_of: Callable[[Tensor], Tensor]
    ) -> Tensor:
        with torch.enable_grad():
            start = start.detach().requires_grad_()
            # The sum, not the mean: the sign is the same, and half-precision gradients underflow later.
            loss = F.cross_entropy(logits_of(start), labels, reduction="sum")
            gradient = torch.autograd.grad(loss, start)[0]
        moved = start.detach() + size * self.epsilon * gradient.sign()
        return torch.maximum(torch.minimum(moved, images + self.epsilon), images - self.epsilon).clamp_(0.0, 1.0)

    def get_extra_state(self) -> Tensor:
        """Return the state for a resumed run, on the CPU so that no step waits for the device."""
        return torch.tensor([float(self.steps_done), float(self.recovering), self._gap], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        steps, recovering, gap = state.tolist()
        self.steps_done, self.recovering, self._gap = int(steps), bool(recovering), gap
