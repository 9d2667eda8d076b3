"""The state of an attack while it runs: the unbroken images, and the distance to each class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.grad_mode import TRACKED
from ibrobust.evaluation.guarded_model import GuardedModel
from ibrobust.evaluation.predictions import probability_flags
from ibrobust.evaluation.worst_case_attack.ascent import Ascent


class AveragedDraws(nn.Module):
    """A stochastic model's logits, averaged over draws: their gradient is the average's (EOT)."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model = model
        self.draws = draws

    def forward(self, images: Tensor) -> Tensor:
        """Return mean logits (B, K)."""
        return torch.stack([self.model(images) for _ in range(self.draws)]).mean(dim=0)


def judging(model: nn.Module, draws: int) -> AveragedDraws:
    """Return the judge of broken images: a mean over four times as many draws as for a gradient."""
    return AveragedDraws(model, 4 * draws)


class Search:
    """N images and the attack's knowledge about them, which only its methods change.

    Attributes:
        target: the attacked model, or its average over draws if it is stochastic.
        judge: decides whether an image is broken: the same model, over more draws.
        images: (N, C, H, W) in [0, 1], on the model's device.
        labels: (N,).
        ball: the allowed perturbations.
        clean: (N,) bool, images that are correct without an attack.
        predictions: (N,) classes without an attack.
        broken: (N,) bool, images for which a misclassified point in the ball was found.
        adversarial: (N, C, H, W) those points; the images elsewhere.
        gaps: (N, K) for each class, the largest z_t - z_y seen in the ball; -inf at the label, and the lowest finite
            number at a class that a logit of -inf rules out.
        nearest: (N, C, H, W) among the end points of runs in the ball, the one with the largest margin.
        reached: (N,) bool, images that were misclassified at most 1.4 epsilon away.
        zero, nonfinite: (N,) bool, images with an exactly zero gradient at the image, or a NaN gradient.
        stuck: (N,) bool, images whose margin the untargeted steps never raised.
        probabilities: a warning if the outputs are probabilities.
        rejected: (M, C, H, W) points in the ball that a pass with a gradient misclassified and the judge did not; at
            most `TRACKED`.
        transferred: number of images that the untargeted steps left and the surrogate's images broke as they were.
    """

    def __init__(
        self, model: GuardedModel, draws: int, images: Tensor, labels: Tensor, ball: Ball, batch_size: int
    ) -> None:
        self.model, self.draws = model, draws
        self.target: nn.Module = AveragedDraws(model, draws) if draws > 1 else model
        self.judge: nn.Module = judging(model, draws) if draws > 1 else model
        self.images, self.labels, self.ball, self.batch_size = images, labels, ball, batch_size
        self.adversarial = images.clone()
        parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        with torch.no_grad():
            logits = torch.cat([self.judge(batch) for batch, _ in parts])
        self.clean, self.predictions = is_correct(logits, labels), logits.argmax(dim=1)
        self.broken = torch.zeros_like(self.clean)
        self.reached, self.zero, self.nonfinite, self.stuck = (self.broken.clone() for _ in range(4))
        self.transferred, self.rejected = 0, images[:0]
        self.clean_margin = -margin(logits, labels)
        self.probabilities = probability_flags(logits)
        self.gaps = torch.full_like(logits, -torch.inf)
        self.nearest, self._margins = images.clone(), torch.full_like(self.clean_margin, -torch.inf)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.gaps.shape[1]

    @property
    def left(self) -> Tensor:
        """(M,) positions of the images that are correct and unbroken."""
        return (self.clean & ~self.broken).nonzero()[:, 0]

    @contextmanager
    def attacking(self, model: nn.Module) -> Iterator[None]:
        """Attack through another model of the same logits in the block; what is learned of gradients is forgotten."""
        kept, nonfinite = self.target, self.nonfinite.clone()
        self.target = model if kept is self.model else AveragedDraws(model, self.draws)
        try:
            yield
        finally:
            self.target, self.nonfinite = kept, nonfinite

    def batches(self, positions: Tensor) -> Iterator[Tensor]:
        """Yield positions (M,) batch by batch."""
        for part in positions.split(self.batch_size):
            if len(part):
                yield part

    def batches_towards(self, positions: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield positions (M,) and target classes (M,) batch by batch, without classes that a logit of -inf rules out.

        An image's margin to such a class has no gradient.
        """
        possible = self.gaps[positions, targets] > torch.finfo(self.gaps.dtype).min
        positions, targets = positions[possible], targets[possible]
        for at, aims in zip(positions.split(self.batch_size), targets.split(self.batch_size), strict=True):
            if len(at):
                yield at, aims

    @torch.no_grad()
    def offer(self, positions: Tensor, candidates: Tensor) -> Tensor:
        """Return (B,) bool, whether the candidates (B, C, H, W) break the images at `positions`.

        A candidate counts if it is in the ball and in [0, 1] and the model misclassifies it in a separate pass.
        """
        inside = self.ball.contains(candidates, self.images[positions])
        broken = torch.zeros_like(inside)
        if bool(inside.any()):
            wrong = ~is_correct(self.judge(candidates[inside]), self.labels[positions[inside]])
            broken[inside] = wrong
        self.adversarial[positions[broken]] = candidates[broken].to(self.adversarial)
        self.broken[positions[broken]] = True
        return broken

    def restore(self, broken: Tensor, nonfinite: Tensor, adversarial: Tensor) -> None:
        """Take over which images (N,) an earlier run broke, and its points (M, C, H, W) for the broken ones."""
        self.broken, self.nonfinite = broken.to(self.broken.device), nonfinite.to(self.nonfinite.device)
        if bool(broken.any()):
            self.adversarial[self.broken] = adversarial.to(self.adversarial)

    @torch.no_grad()
    def prefer(self, positions: Tensor, candidates: Tensor) -> None:
        """Keep the candidates (B, C, H, W) for the broken images at `positions` if their margin is larger."""
        labels, kept = self.labels[positions], self.adversarial[positions]
        better = margin(self.judge(candidates), labels) > margin(self.judge(kept), labels)
        better &= self.ball.contains(candidates, self.images[positions])
        self.adversarial[positions[better]] = candidates[better].to(self.adversarial)

    @torch.no_grad()
    def withdraw(self, positions: Tensor, judge: nn.Module) -> Tensor:
        """Return (B,) bool, which of the broken images at `positions` are correct by this judge; they are unbroken."""
        right = is_correct(judge(self.adversarial[positions]), self.labels[positions])
        self.adversarial[positions[right]] = self.images[positions[right]]
        self.broken[positions[right]] = False
        return right

    def learn(self, positions: Tensor, run: Ascent, *, factor: float = 1.0) -> Tensor:
        """Store the results of a run on the images at `positions`; return (B,) bool, whether it broke them."""
        self.nonfinite[positions] |= run.nonfinite
        if factor <= NEAR:
            self.reached[positions] |= run.reached
        if factor <= 1.0:
            self.gaps[positions] = torch.maximum(self.gaps[positions], run.gaps)
            nearer = run.margins > self._margins[positions]
            self.nearest[positions[nearer]] = run.last[nearer]
            self._margins[positions[nearer]] = run.margins[nearer].to(self._margins)
        broken = torch.zeros_like(run.broken)
        if bool(run.broken.any()):
            broken[run.broken] = self.offer(positions[run.broken], run.found[run.broken])
            if self.target is self.model:
                self.rejected = torch.cat([self.rejected, run.found[run.broken & ~broken]])[:TRACKED]
        return broken

    def closest(self, positions: Tensor, *, within: float = torch.inf) -> Tensor:
        """Return the positions (M,) of images near enough to another class, the nearest first.

        Args:
            positions: (N,) to choose from.
            within: the largest remaining share of the clean margin: with 0.1, nine tenths of the way are done.
        """
        share = -self.gaps[positions].amax(dim=1) / self.clean_margin[positions].clamp(min=1e-12)
        order = share.argsort(stable=True)
        return positions[order[share[order] <= within]]

    def ranked(self, positions: Tensor) -> Tensor:
        """Return the other classes (M, K - 1), sorted by the images' nearness to them."""
        return self.gaps[positions].argsort(dim=1, descending=True, stable=True)[:, : self.num_classes - 1]


NEAR = 1.4
