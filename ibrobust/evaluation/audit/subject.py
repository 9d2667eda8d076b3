"""The model under audit with its images, and how much effort to spend on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibrobust.evaluation.losses import AttackLoss
from ibrobust.evaluation.model_state import derive_seed
from ibrobust.evaluation.pgd import PGDResult, pgd, random_start


@dataclass(frozen=True)
class Effort:
    """How hard the attacks try.

    Attributes:
        images: at most so many, spread evenly; None takes all.
        steps: of PGD.
        queries: of the Square attack.
        random_draws: corners of the ball that random search tries for each image.
        draws: over which a stochastic model's logits are averaged.
    """

    images: int | None
    steps: int
    queries: int
    random_draws: int
    draws: int


QUICK = Effort(images=256, steps=20, queries=200, random_draws=50, draws=8)
FULL = Effort(images=None, steps=50, queries=1000, random_draws=200, draws=16)


class DrawAverage(nn.Module):
    """A stochastic model's logits, averaged over draws: its expectation, and so its gradient's (EOT)."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model = model
        self.draws = draws

    def forward(self, images: Tensor) -> Tensor:
        """Return mean logits (B, K)."""
        return torch.stack([self.model(images) for _ in range(self.draws)]).mean(dim=0)


def spread_evenly(total: int, count: int) -> Tensor:
    """Return (min(total, count),) positions among `total`, evenly spaced: image folders are sorted by class."""
    count = min(total, count)
    return torch.arange(count) * total // max(count, 1)


@dataclass(frozen=True)
class Subject:
    """What every check looks at.

    Attributes:
        model: as it was given, in evaluation mode.
        target: what the attacks attack: the model, or its average over draws where it is stochastic.
        images: (N, C, H, W) in [0, 1], on the model's device.
        labels: (N,).
        clean: (N,) bool, which images the target classifies correctly.
        num_classes: K.
        epsilon: radius.
        effort: how hard to try.
        batch_size: images a batch.
        seed: of everything random.
    """

    model: nn.Module
    target: nn.Module
    images: Tensor
    labels: Tensor
    clean: Tensor
    num_classes: int
    epsilon: float
    effort: Effort
    batch_size: int
    seed: int

    def generator(self, name: str) -> torch.Generator:
        """Return a generator of this check's own."""
        return torch.Generator().manual_seed(derive_seed(self.seed, name))

    def mask(self, which: Tensor, attack: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return (N,) bool: what `attack(images, labels)` says of the images in `which`, False for the others."""
        out = torch.zeros_like(self.clean)
        for indices in which.nonzero()[:, 0].split(self.batch_size):
            out[indices] = attack(self.images[indices], self.labels[indices])
        return out

    def pgd(
        self,
        which: Tensor,
        name: str,
        *,
        loss: str | AttackLoss,
        epsilon: float | None = None,
        steps: int | None = None,
        move_start: bool = False,
        stop_when_broken: bool = True,
        model: nn.Module | None = None,
    ) -> PGDResult | None:
        """Return PGD's outcome on the images in `which`, in their order; None where there are none."""
        radius = self.epsilon if epsilon is None else epsilon
        generator = self.generator(name)
        runs = []
        for indices in which.nonzero()[:, 0].split(self.batch_size):
            images = self.images[indices]
            run = pgd(
                self.target if model is None else model,
                images,
                self.labels[indices],
                epsilon=radius,
                steps=self.effort.steps if steps is None else steps,
                loss=loss,
                start=random_start(images, radius, generator) if move_start else None,
                stop_when_broken=stop_when_broken,
            )
            runs.append(run)
        if not runs or len(runs[0].broken) == 0:
            return None
        return PGDResult(
            adversarial=torch.cat([run.adversarial for run in runs]),
            last=torch.cat([run.last for run in runs]),
            broken=torch.cat([run.broken for run in runs]),
            last_broken=torch.cat([run.last_broken for run in runs]),
            nonfinite=torch.cat([run.nonfinite for run in runs]),
            losses=torch.cat([run.losses for run in runs], dim=1),
        )

    def spread(self, which: Tensor, values: Tensor | None) -> Tensor:
        """Return (N,) bool with `values` at the places of `which`."""
        out = torch.zeros_like(self.clean)
        if values is not None:
            out[which] = values
        return out
