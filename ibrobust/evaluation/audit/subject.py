"""The model under audit with its images, and how much effort to spend on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.evaluation.attacks.losses import AttackLoss
from ibrobust.evaluation.attacks.pgd import pgd
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.worst_case_attack.run import AGAIN, DRAWS
from ibrobust.evaluation.worst_case_attack.search import judging
from ibrobust.seeds import evaluation_seed
from ibrobust.spread import spread_evenly

# At most so many of the images, spread evenly, get every check. The others get FGSM, the worst-case attack and the
# caller's own attacks.
COMPARED = 256


@dataclass(frozen=True)
class Effort:
    """How hard the attacks try.

    Attributes:
        images: at most so many, spread evenly; None takes all.
        steps: of PGD.
        queries: of the Square attack, per image.
        total_queries: of the worst-case attack's Square on all images together, if gradients mislead; None for as many
            as the attack makes by itself.
        random_draws: corners of the ball that random search tries for each image.
        draws: over which a stochastic model's logits are averaged for a gradient.
        survivors: at most so many of the images that PGD left get the attacks which are tried on those alone, spread
            evenly; None takes all.
        radii: epsilon times these is tried as well.
    """

    images: int | None
    steps: int
    queries: int
    random_draws: int
    draws: int
    total_queries: int | None = None
    survivors: int | None = None
    radii: tuple[float, ...] = (0.25, 0.5, 2.0, 4.0)


QUICK = Effort(
    images=256,
    steps=20,
    queries=200,
    random_draws=50,
    draws=8,
    total_queries=20_000,
    survivors=32,
    radii=(0.5, 2.0),
)
FULL = Effort(images=None, steps=50, queries=500, random_draws=100, draws=16)


@dataclass(frozen=True)
class Subject:
    """What every check looks at.

    Attributes:
        model: as it was given, in evaluation mode.
        target: what the attacks follow: the model, or its average over draws where it is stochastic.
        images: (N, C, H, W) in [0, 1], on the model's device.
        labels: (N,).
        clean: (N,) bool, which images the judge finds correct.
        num_classes: K.
        epsilon: radius.
        effort: how hard to try.
        batch_size: images per batch.
        seed: of all random numbers.
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

    @property
    def compared(self) -> Tensor:
        """(M,) positions of the images that get every check."""
        return spread_evenly(self.labels, COMPARED).to(self.images.device)

    def part(self, positions: Tensor) -> Subject:
        """Return the subject with the images at positions (M,) alone."""
        images, labels, clean = self.images[positions], self.labels[positions], self.clean[positions]
        return replace(self, images=images, labels=labels, clean=clean)

    def generator(self, name: str) -> torch.Generator:
        """Return a generator of this check's own."""
        return torch.Generator().manual_seed(evaluation_seed(self.seed, name))

    @property
    def stochastic(self) -> bool:
        """Whether the model draws random numbers, so that evaluations of one image may differ."""
        return self.target is not self.model

    @property
    def judge(self) -> nn.Module:
        """The judge of images, that of the worst-case attack: the model, or its average over draws."""
        return judging(self.model, DRAWS) if self.stochastic else self.model

    @property
    def last_judge(self) -> nn.Module:
        """The judge over more draws, for images that were broken before."""
        return judging(self.model, AGAIN * DRAWS) if self.stochastic else self.model

    @property
    def attack_seed(self) -> int:
        """Seed of the worst-case attack."""
        return evaluation_seed(self.seed, "worst case")

    def survivors(self, left: Tensor) -> Tensor:
        """Return those of the images in `left` (N,) that the attacks on survivors are tried on, (N,) bool."""
        positions = left.nonzero()[:, 0]
        count = len(positions) if self.effort.survivors is None else self.effort.survivors
        chosen = positions[spread_evenly(self.labels[positions], count).to(positions.device)]
        return torch.zeros_like(left).index_fill(0, chosen, True)

    def batches(self, which: Tensor) -> Iterator[Tensor]:
        """Yield the positions of the images in `which` (N,), a batch at a time; nothing if there are none."""
        positions = which.nonzero()[:, 0]
        if len(positions):  # split would give one empty batch, which many models cannot take
            yield from positions.split(self.batch_size)

    @torch.no_grad()
    def wrong(self, which: Tensor, images: Tensor, *, judge: nn.Module | None = None) -> Tensor:
        """Return (N,) bool: of those in `which` (N,), the images (N, C, H, W) that the judge finds wrong now."""
        out, judge = torch.zeros_like(self.clean), self.judge if judge is None else judge
        for indices in self.batches(which):
            out[indices] = ~is_correct(judge(images[indices]), self.labels[indices])
        return out

    def moved(self, which: Tensor, attack: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return (N, C, H, W): what `attack(images, labels)` makes of the images in `which`, the others unchanged."""
        out = self.images.clone()
        for indices in self.batches(which):
            out[indices] = attack(self.images[indices], self.labels[indices]).to(out)
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
        stop_from: int = 0,
        model: nn.Module | None = None,
    ) -> Attempt:
        """Return PGD's outcome on the images in `which` (N,).

        An image of a deterministic target is broken where some iterate was misclassified. For a stochastic target that
        would be one chance a step: there the last iterate is evaluated once more, and that alone decides. The same
        holds for an attack on another `model` than the target. `stop_from` steps are made also after a success.
        """
        radius = self.epsilon if epsilon is None else epsilon
        generator = self.generator(name)
        attacked = self.target if model is None else model
        judged_afterwards = self.stochastic or attacked is not self.target
        images, losses = self.images.clone(), []
        broken, last_broken = torch.zeros_like(self.clean), torch.zeros_like(self.clean)
        for indices in self.batches(which):
            points = self.images[indices]
            run = pgd(
                attacked,
                points,
                self.labels[indices],
                epsilon=radius,
                steps=self.effort.steps if steps is None else steps,
                loss=loss,
                start=Ball("Linf", radius).random_point(points, generator) if move_start else None,
                stop_when_broken=not judged_afterwards,
                stop_from=stop_from,
            )
            images[indices] = run.last if judged_afterwards else run.adversarial
            broken[indices], last_broken[indices] = run.broken, run.last_broken
            losses.append(run.losses)
        if judged_afterwards:
            broken = last_broken = self.wrong(which, images)
        else:  # a model may give other logits with a gradient
            broken = self.wrong(broken, images)
            last_broken &= broken
        survivors = torch.cat(losses, dim=1)[:, ~broken[which]] if losses else self.images.new_zeros((1, 0))
        return Attempt(images, broken, last_broken, survivors)


@dataclass(frozen=True)
class Attempt:
    """What an attack made of the N images.

    Attributes:
        images: (N, C, H, W), those that were not attacked unchanged.
        broken: (N,) bool, the attacked image is wrong.
        last_broken: (N,) bool, it misclassifies the attack's last iterate, or the one at which the attack stopped.
        survivor_losses: (steps + 1, M) the loss at every iterate of the M attacked images that are not broken.
    """

    images: Tensor
    broken: Tensor
    last_broken: Tensor
    survivor_losses: Tensor
