"""The attacks an audit runs, once each; the checks compare what they broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibrobust.evaluation.attack_spec import AttackSpec
from ibrobust.evaluation.audit.subject import Subject
from ibrobust.evaluation.batch_attacks import attack_batch
from ibrobust.evaluation.losses import targeted_margin
from ibrobust.evaluation.model_state import derive_seed
from ibrobust.evaluation.pgd import PGDResult
from ibrobust.evaluation.predictions import is_correct
from ibrobust.evaluation.sweep import FGSMSweep

MOST_TARGETS = 9  # as many as AutoAttack's


@dataclass(frozen=True)
class AttackRuns:
    """Which images, of those right without an attack, each attack broke: (N,) bool each.

    Attributes:
        fgsm: FGSM with cross-entropy.
        cross_entropy: PGD on cross-entropy; some iterate.
        cross_entropy_last: the same run's last iterate, all that an attack which keeps no record would report.
        margin: PGD on the margin.
        harder: PGD on the margin with twice the steps and two more starts, on what both left.
        targeted: PGD towards one other class after the other, on what all before it left.
        square, random, transfer: on what PGD at the ordinary effort left. transfer is None without a surrogate.
        plain: PGD on single draws of a stochastic model; None for a deterministic one.
        by_epsilon: radius -> PGD on the margin at that radius, rising, `epsilon` among them.
        large: PGD on the margin at 0.5.
        unbounded: PGD on the margin at 1, with more starts, on what `large` left.
        survivor_losses: (steps + 1, M) margin losses of the images that PGD on the margin left.
    """

    fgsm: Tensor
    cross_entropy: Tensor
    cross_entropy_last: Tensor
    margin: Tensor
    harder: Tensor
    targeted: Tensor
    square: Tensor
    random: Tensor
    transfer: Tensor | None
    plain: Tensor | None
    by_epsilon: dict[float, Tensor]
    large: Tensor
    unbounded: Tensor
    survivor_losses: Tensor

    @property
    def white_box(self) -> Tensor:
        """(N,) bool, what PGD at the ordinary effort broke with either loss."""
        return self.cross_entropy | self.margin

    def worst_case(self, epsilon: float) -> Tensor:
        """(N,) bool, what anything in the ball of radius `epsilon` broke."""
        broken = self.fgsm | self.white_box | self.harder | self.targeted | self.square | self.random
        for optional in (self.transfer, self.plain):
            broken = broken if optional is None else broken | optional
        for radius, found in self.by_epsilon.items():
            broken = broken | found if radius <= epsilon else broken
        return broken


def run_attacks_for_audit(
    subject: Subject, surrogate: nn.Module | None, *, report: Callable[[str], None]
) -> AttackRuns:
    """Return what every attack broke. `report` is called with the name of each stage before it starts."""
    clean, epsilon = subject.clean, subject.epsilon
    report("FGSM")
    fgsm = subject.mask(clean, lambda images, labels: _fgsm(subject, images, labels))
    report("PGD on cross-entropy")
    watched = subject.pgd(clean, "cross-entropy", loss="cross_entropy", stop_when_broken=False)
    report("PGD on the margin")
    base = subject.pgd(clean, "margin", loss="margin")
    cross_entropy = subject.spread(clean, None if watched is None else watched.broken)
    margin = subject.spread(clean, None if base is None else base.broken)
    left = clean & ~cross_entropy & ~margin
    report("PGD with more steps and starts")
    harder = _harder(subject, left)
    report("PGD towards each class")
    targeted = _targeted(subject, left & ~harder)
    report("Square")
    square = subject.mask(left, lambda images, labels: _square(subject, images, labels))
    report("random search")
    random = _random_search(subject, left)
    report("transfer")
    transfer = None if surrogate is None else _transfer(subject, surrogate, clean, left)
    report("several epsilons")
    by_epsilon = {epsilon: margin}
    for factor in (0.5, 2.0, 4.0):
        radius = min(factor * epsilon, 1.0)
        if radius not in by_epsilon:
            run = subject.pgd(clean, f"epsilon times {factor}", loss="margin", epsilon=radius)
            by_epsilon[radius] = subject.spread(clean, None if run is None else run.broken)
    report("epsilon 0.5 and unbounded")
    run = subject.pgd(clean, "large", loss="margin", epsilon=0.5)
    large = subject.spread(clean, None if run is None else run.broken)
    unbounded = _unbounded(subject, large)
    report("single draws")
    plain = None if subject.target is subject.model else _plain(subject, clean)
    return AttackRuns(
        fgsm=fgsm,
        cross_entropy=cross_entropy,
        cross_entropy_last=subject.spread(clean, None if watched is None else watched.last_broken),
        margin=margin,
        harder=harder,
        targeted=targeted,
        square=square,
        random=random,
        transfer=transfer,
        plain=plain,
        by_epsilon=dict(sorted(by_epsilon.items())),
        large=large,
        unbounded=unbounded,
        survivor_losses=_survivor_losses(base, subject),
    )


def _fgsm(subject: Subject, images: Tensor, labels: Tensor) -> Tensor:
    # On the model as it was given, as anyone's FGSM would be.
    attack = FGSMSweep(subject.model, (subject.epsilon,))
    gradient, _ = attack.gradient(images, labels)
    adversarial = attack.perturb(images, gradient.nan_to_num(0.0), subject.epsilon)
    with torch.no_grad():
        return ~is_correct(subject.target(adversarial), labels)


def _harder(subject: Subject, which: Tensor) -> Tensor:
    broken = torch.zeros_like(which)
    for loss in ("margin", "cross_entropy"):
        left = which & ~broken
        steps = 2 * subject.effort.steps
        run = subject.pgd(left, f"harder {loss}", loss=loss, steps=steps, move_start=True)
        broken = broken | subject.spread(left, None if run is None else run.broken)
    return broken


def _targeted(subject: Subject, which: Tensor) -> Tensor:
    """Aim at each of an image's likeliest other classes in turn: the nearest of them need not be the one that gives."""
    logits = subject.images.new_full((len(which), subject.num_classes), -torch.inf)
    for indices in which.nonzero()[:, 0].split(subject.batch_size):
        with torch.no_grad():
            logits[indices] = subject.target(subject.images[indices]).to(logits)
    logits.scatter_(1, subject.labels[:, None], -torch.inf)
    likely = logits.topk(min(MOST_TARGETS, subject.num_classes - 1), dim=1).indices
    aimed = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, likely, True)  # (N, K)
    broken = torch.zeros_like(which)
    for target in range(subject.num_classes):
        left = which & ~broken & aimed[:, target]
        run = subject.pgd(left, f"target {target}", loss=targeted_margin(target))
        broken = broken | subject.spread(left, None if run is None else run.broken)
    return broken


def _square(subject: Subject, images: Tensor, labels: Tensor) -> Tensor:
    spec = AttackSpec("Square", (("n_queries", subject.effort.queries),))
    seed = derive_seed(subject.seed, "square")
    adversarial, _ = attack_batch(subject.target, images, labels, spec, epsilon=subject.epsilon, seed=seed)
    with torch.no_grad():
        return ~is_correct(subject.target(adversarial), labels)


@torch.no_grad()
def _random_search(subject: Subject, which: Tensor) -> Tensor:
    """Try random corners of the ball, the same ones for every image."""
    generator = subject.generator("random search")
    broken = torch.zeros_like(which)
    for _ in range(subject.effort.random_draws):
        signs = torch.randint(0, 2, subject.images.shape[1:], generator=generator).to(subject.images) * 2.0 - 1.0
        step = subject.epsilon * signs
        broken = broken | subject.mask(
            which & ~broken,
            lambda images, labels, step=step: (
                ~is_correct(  # type: ignore[misc]
                    subject.target((images + step).clamp(0.0, 1.0)), labels
                )
            ),
        )
    return broken


def _transfer(subject: Subject, surrogate: nn.Module, clean: Tensor, which: Tensor) -> Tensor:
    run = subject.pgd(which, "transfer", loss="margin", model=surrogate, stop_when_broken=False)
    if run is None:
        return torch.zeros_like(clean)
    broken = []
    labels = subject.labels[which]
    for images, targets in zip(run.last.split(subject.batch_size), labels.split(subject.batch_size), strict=True):
        with torch.no_grad():
            broken.append(~is_correct(subject.target(images), targets))
    return subject.spread(which, torch.cat(broken))


def _unbounded(subject: Subject, large: Tensor) -> Tensor:
    broken = large.clone()
    for start in range(3):
        left = subject.clean & ~broken
        run = subject.pgd(
            left,
            f"unbounded {start}",
            loss="margin",
            epsilon=1.0,
            steps=2 * subject.effort.steps,
            move_start=start > 0,
        )
        broken = broken | subject.spread(left, None if run is None else run.broken)
    return broken


def _plain(subject: Subject, clean: Tensor) -> Tensor:
    """Attack single draws, and ask the average whether that broke the image."""
    run = subject.pgd(clean, "plain", loss="margin", model=subject.model, stop_when_broken=False)
    if run is None:
        return torch.zeros_like(clean)
    labels = subject.labels[clean]
    with torch.no_grad():
        parts = zip(run.last.split(subject.batch_size), labels.split(subject.batch_size), strict=True)
        broken = torch.cat([~is_correct(subject.target(images), targets) for images, targets in parts])
    return subject.spread(clean, broken)


def _survivor_losses(run: PGDResult | None, subject: Subject) -> Tensor:
    if run is None:
        return subject.images.new_zeros((subject.effort.steps + 1, 0))
    return run.losses[:, ~run.broken]
