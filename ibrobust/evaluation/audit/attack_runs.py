"""The attacks an audit runs, once each; the checks compare what they broke."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.evaluation.attacks.attack import Attack
from ibrobust.evaluation.attacks.batch import attack_batch
from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.audit.subject import Attempt, Subject
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.sweep import FGSMSweep
from ibrobust.evaluation.worst_case_attack import (
    AVERAGED,
    EXTRA_ATTACKS,
    STRAIGHT_THROUGH,
    WorstCaseResult,
    worst_case_attack,
)
from ibrobust.evaluation.worst_case_attack.square import square
from ibrobust.isolated_rng import isolated_rng
from ibrobust.seeds import evaluation_seed

# Stages of the worst-case attack, by name.
STEPS = "untargeted"
BETTER_STARTS = ("surrogate start", "larger ball")
SURROGATE_START = BETTER_STARTS[0]
LAST_STEP = 20  # PGD on cross-entropy stops at a success from this step on
RADIUS_STEPS = 20  # of PGD at other radii; at the smaller ones most images survive, so that each step is expensive
WITHOUT_OWN_GRADIENT = (STRAIGHT_THROUGH, *EXTRA_ATTACKS, "random corners", "Square")


@dataclass(frozen=True)
class AttackRuns:
    """Which images, of those right without an attack, each attack broke.

    (N,) bool each: the attacks on all images. (M,) bool each: those on the images that get every check.

    Attributes:
        fgsm: (N,) FGSM with cross-entropy.
        cross_entropy: PGD on cross-entropy, on the images (M,).
        margin: PGD on the margin, on the same.
        harder: (M,) PGD on the margin with twice the steps from a random start.
        square, random, transfer: (M,) attacks that see no gradient of the model. transfer is None without a surrogate.
        tried: the share in [0, 1] of the images that PGD left on which those four were tried.
        stages: what each stage of the worst-case attack broke, of what the earlier ones left.
        plain: (M,) PGD on the margin of single draws of a stochastic model; None for a deterministic one.
        protected: pairs of neighbouring radii, with the images (M,) that PGD on the margin broke at the smaller one and
            not at the larger one.
        large: (M,) PGD on the margin at 0.5.
        unbounded: (M,) PGD on the margin at 1, with more starts, on what `large` left.
        given: (N,) each of the caller's own attacks, by its label, of what everything before it left.
        worst_case: (N,) anything within the ball of radius `epsilon`.
        warned: whether the worst-case attack saw a sign of misleading gradients, on any image, or one of the caller's
            own attacks warned.
        draws: whether the worst-case attack found that the model draws random numbers.
    """

    fgsm: Tensor
    cross_entropy: Attempt
    margin: Attempt
    harder: Tensor
    square: Tensor
    random: Tensor
    transfer: Tensor | None
    tried: float
    stages: Stages
    plain: Tensor | None
    protected: tuple[tuple[float, float, Tensor], ...]
    large: Tensor
    unbounded: Tensor
    given: dict[str, Tensor]
    worst_case: Tensor
    warned: bool
    draws: bool


class _Counterexamples:
    """An image within the ball for each of the N images that was found to be broken: the first one, or, of a stochastic
    model, that of the largest margin."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.images = subject.images.clone()
        self.broken = torch.zeros_like(subject.clean)

    def add(self, images: Tensor, broken: Tensor, *, at: Tensor | None = None) -> Tensor:
        """Keep those of images (M, C, H, W) that are `broken` (M,) and return `broken`.

        Their positions are `at` (M,), by default all N.
        """
        positions = torch.arange(len(self.images), device=broken.device) if at is None else at
        fresh = broken & ~self.broken[positions]
        if self.subject.stochastic:
            # An image that was broken before may have been so by luck: the one with the larger margin is kept.
            fresh = fresh | (broken & self._exceeds(positions, images, broken & ~fresh))
        self.images[positions[fresh]] = images[fresh]
        self.broken[positions[fresh]] = True
        return broken

    @torch.no_grad()
    def _exceeds(self, positions: Tensor, images: Tensor, which: Tensor) -> Tensor:
        """Return (M,) bool: of those in `which` (M,), the images with a larger margin than those that were kept."""
        out = torch.zeros_like(which)
        for part in which.nonzero()[:, 0].split(self.subject.batch_size):
            if len(part):
                at = positions[part]
                labels, judge = self.subject.labels[at], self.subject.judge
                out[part] = margin(judge(images[part]), labels) > margin(judge(self.images[at]), labels)
        return out

    def worst_case(self, fgsm: Tensor) -> Tensor:
        """Return (N,) bool, which images are broken.

        Every attack gave a stochastic model one more chance to be wrong. The counterexample that was found is evaluated
        once more, on more draws that had no part in finding it; FGSM's was evaluated only once.
        """
        if not self.subject.stochastic:
            return self.broken
        return fgsm | self.subject.wrong(self.broken & ~fgsm, self.images, judge=self.subject.last_judge)


def run_attacks_for_audit(
    subject: Subject, surrogate: nn.Module | None, *, attacks: Sequence[Attack], report: Callable[[str], None]
) -> AttackRuns:
    """Return the images that each attack broke, the caller's own `attacks` last.

    `report` is called with the name of each stage before it starts.
    """
    found, at = _Counterexamples(subject), subject.compared
    part = subject.part(at)

    def add(images: Tensor, broken: Tensor) -> Tensor:
        return found.add(images, broken, at=at)

    report("FGSM")
    moved = subject.moved(subject.clean, lambda images, labels: _fgsm(subject, images, labels))
    fgsm = found.add(moved, subject.wrong(subject.clean, moved))
    report("PGD on cross-entropy")
    cross_entropy = part.pgd(part.clean, "cross-entropy", loss="cross_entropy", stop_from=LAST_STEP)
    add(cross_entropy.images, cross_entropy.broken)
    report("PGD on the margin")
    base = part.pgd(part.clean, "margin", loss="margin")
    add(base.images, base.broken)
    left = part.clean & ~cross_entropy.broken & ~base.broken
    report("the worst case")
    strongest = worst_case_attack(
        subject.model,
        subject.images,
        subject.labels,
        epsilon=subject.epsilon,
        surrogate=surrogate,
        seed=subject.attack_seed,
        batch_size=subject.batch_size,
        queries=subject.effort.total_queries,
        progress=False,
    )
    stages = _by_stage(subject, strongest)
    found.add(strongest.adversarial, stages.broken)
    found.add(subject.images, stages.not_attacked)
    tried = part.survivors(left)
    share = int(tried.sum()) / max(int(left.sum()), 1)
    left = tried
    report("PGD with more steps and starts")
    attempt = part.pgd(left, "harder", loss="margin", steps=2 * subject.effort.steps, move_start=True)
    harder = add(attempt.images, attempt.broken)
    report("Square")
    moved = part.moved(left, lambda images, labels: _square(subject, images, labels))
    square = add(moved, part.wrong(left, moved))
    report("random search")
    moved = _random_corners(part, left)
    random = add(moved, part.wrong(left, moved))
    report("transfer")
    transfer = None
    if surrogate is not None:
        attempt = part.pgd(left, "transfer", loss="margin", model=surrogate)
        transfer = add(attempt.images, attempt.broken)
    report("several epsilons")
    protected = _protected(part, base.broken, add)
    report("epsilon 0.5 and unbounded")
    large = part.pgd(part.clean, "large", loss="margin", epsilon=0.5).broken
    unbounded = _unbounded(part, large)
    report("single draws")
    plain = None
    if subject.stochastic:
        attempt = part.pgd(part.clean, "margin", loss="margin", model=subject.model)
        plain = add(attempt.images, attempt.broken)
    given, flags = {}, list[str]()
    for attack in attacks:
        report(attack.label)
        before = found.worst_case(fgsm).clone()
        # A stochastic model's broken images may have been so by luck.
        left = subject.clean if subject.stochastic else subject.clean & ~before
        moved = subject.moved(left, partial(_given, subject, attack, flags))
        given[attack.label] = found.add(moved, subject.wrong(left, moved)) & ~before
    return AttackRuns(
        fgsm=fgsm,
        cross_entropy=cross_entropy,
        margin=base,
        harder=harder,
        square=square,
        random=random,
        transfer=transfer,
        tried=share,
        stages=stages,
        plain=plain,
        protected=protected,
        large=large,
        unbounded=unbounded,
        given=given,
        worst_case=found.worst_case(fgsm),
        # Averages over draws are a reason for caution, but not a sign of it.
        warned=any(warning != AVERAGED for warning in (*strongest.warnings, *flags)),
        draws=AVERAGED in strongest.warnings,
    )


@dataclass(frozen=True)
class Stages:
    """Which images the worst-case attack broke (N,) bool, and at which stage."""

    broken: Tensor
    not_attacked: Tensor  # (N,) bool, wrong without an attack by other draws: images that a random model may get right
    names: tuple[str, ...]

    def of(self, *names: str) -> Tensor:
        """Return (N,) bool, the images that one of these stages broke."""
        return torch.tensor([name in names for name in self.names], device=self.broken.device) & self.broken


def _by_stage(subject: Subject, result: WorstCaseResult) -> Stages:
    was, still = (torch.tensor(right).to(subject.clean) for right in (result.clean_correct, result.robust_correct))
    return Stages(was & ~still & subject.clean, ~was & subject.clean, result.broken_by)


def _fgsm(subject: Subject, images: Tensor, labels: Tensor) -> Tensor:
    # On the model as it was given, as anyone's FGSM would be.
    attack = FGSMSweep(subject.model, (subject.epsilon,))
    gradient, _ = attack.gradient(images, labels)
    return attack.perturb(images, gradient.nan_to_num(0.0), subject.epsilon)


def _protected(
    subject: Subject, broken: Tensor, add: Callable[[Tensor, Tensor], Tensor]
) -> tuple[tuple[float, float, Tensor], ...]:
    """Attack at radii below and above epsilon, at each only the images that could speak against the model.

    Args:
        subject: the model and its images.
        broken: (N,) bool, by PGD on the margin at epsilon.
        add: gets the images that break below epsilon.
    """
    pairs, steps = [], RADIUS_STEPS
    large, left = subject.epsilon, subject.clean & ~broken
    for factor in sorted((factor for factor in subject.effort.radii if factor < 1.0), reverse=True):
        small = factor * subject.epsilon
        attempt = subject.pgd(left, f"epsilon times {factor}", loss="margin", epsilon=small, steps=steps)
        pairs.append((small, large, add(attempt.images, attempt.broken)))
        large, left = small, left & ~attempt.broken
    small, left = subject.epsilon, broken
    for factor in sorted(factor for factor in subject.effort.radii if factor > 1.0):
        large = min(factor * subject.epsilon, 1.0)
        if large > small:
            attempt = subject.pgd(left, f"epsilon times {factor}", loss="margin", epsilon=large, steps=steps)
            pairs.append((small, large, left & ~attempt.broken))
            small, left = large, attempt.broken
    return tuple(pairs)


def _square(subject: Subject, images: Tensor, labels: Tensor) -> Tensor:
    ball, seed = Ball("Linf", subject.epsilon), evaluation_seed(subject.seed, "square")
    with isolated_rng(seed):
        generator = torch.Generator().manual_seed(seed)
        return square(subject.target, images, labels, ball=ball, queries=subject.effort.queries, generator=generator)


def _given(subject: Subject, attack: Attack, flags: list[str], images: Tensor, labels: Tensor) -> Tensor:
    seed = evaluation_seed(subject.seed, attack.label)
    adversarial, _ = attack_batch(
        subject.target, images, labels, attack, epsilon=subject.epsilon, seed=seed, flags=flags
    )
    return adversarial


@torch.no_grad()
def _random_corners(subject: Subject, which: Tensor) -> Tensor:
    """Return (N, C, H, W): of random corners of the ball, the same ones for every image, that of the largest margin."""
    generator = subject.generator("random search")
    best = subject.images.clone()
    values = subject.images.new_full((len(which),), -torch.inf)
    for _ in range(subject.effort.random_draws):
        signs = torch.randint(0, 2, subject.images.shape[1:], generator=generator).to(subject.images) * 2.0 - 1.0
        for indices in subject.batches(which & (values < torch.inf)):
            corners = (subject.images[indices] + subject.epsilon * signs).clamp(0.0, 1.0)
            logits, labels = subject.target(corners), subject.labels[indices]
            found = margin(logits, labels).to(values).nan_to_num(torch.inf)
            if not subject.stochastic:  # one that is wrong ends the search; ties have a margin of 0
                found = torch.where(is_correct(logits, labels), found, torch.inf)
            better = found > values[indices]
            best[indices[better]], values[indices[better]] = corners[better], found[better]
    return best


def _unbounded(subject: Subject, large: Tensor) -> Tensor:
    broken = large.clone()
    for start in range(3):
        attempt = subject.pgd(
            subject.clean & ~broken,
            f"unbounded {start}",
            loss="margin",
            epsilon=1.0,
            steps=2 * subject.effort.steps,
            move_start=start > 0,
        )
        broken = broken | attempt.broken
    return broken
