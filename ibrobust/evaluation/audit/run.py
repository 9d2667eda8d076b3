"""The audit: the worst case image by image, every check, and two answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ibrobust.epsilon import format_epsilon, read_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Attack, require_different, require_linf
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.function_attack import AttackFunction
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.audit.attack_checks import attack_checks
from ibrobust.evaluation.audit.attack_runs import AttackRuns, run_attacks_for_audit
from ibrobust.evaluation.audit.gradient_checks import (
    check_gradient_matches_differences,
    check_gradients,
    check_saturation,
    check_stable_predictions,
)
from ibrobust.evaluation.audit.model_checks import (
    check_batch_invariance,
    check_clean_accuracy,
    check_determinism,
    check_epsilon_zero,
    check_grad_mode,
    check_logits_not_probabilities,
)
from ibrobust.evaluation.audit.report import BLINDING, AuditReport, Check, gradient_answer
from ibrobust.evaluation.audit.robustness import Claim, is_it_real, share_kept
from ibrobust.evaluation.audit.subject import FULL, QUICK, Effort, Subject
from ibrobust.evaluation.guarded_model import GuardedModel, guard
from ibrobust.evaluation.inputs import ArrayLike, check_batch_size, images_and_labels, unit_range
from ibrobust.evaluation.model_state import evaluation_mode, model_device, model_reference
from ibrobust.evaluation.pass_counter import Cost, counting_passes
from ibrobust.evaluation.predictions import count_classes, guessing_accuracy
from ibrobust.evaluation.worst_case_attack.run import clean_draws
from ibrobust.evaluation.worst_case_attack.search import AveragedDraws
from ibrobust.live_line import LiveLine, following
from ibrobust.seeds import check_seed
from ibrobust.spread import spread_evenly

STAGES = 13


def audit(
    model: nn.Module,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: float | str,
    quick: bool = False,
    claim: float | AttackResult | None = None,
    surrogate: nn.Module | None = None,
    surrogate_name: str | None = None,
    attacks: Sequence[Attack | AttackFunction | str] | Attack | AttackFunction | str = (),
    batch_size: int = 250,
    seed: int = 0,
    progress: bool | Callable[[str, int, int], None] | None = None,
) -> AuditReport:
    """Return two answers about the model at `epsilon`: is its robustness real, and did its gradient vanish or mislead?

    The worst case combines `worst_case_attack` and the audit's other attacks within `epsilon`, image by image.
    `worst_case_attack`, FGSM and your own attacks run on all images, the others on at most 256 of them. docs/audit.md
    says how the answers follow from it and from the checks. A check that compares attacks fails only if the share of
    images that it counts is above its threshold with 95% confidence (Clopper-Pearson). So one unusual image in a small
    sample does not fail a check. A model that draws random numbers is attacked through its average over draws. Model
    mode, parameter gradients and random state are restored afterwards.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), K >= 2, on its own device; see `GuardedModel`.
        images: (N, C, H, W) floats in [0, 1], or uint8 in [0, 255]; a tensor, a NumPy array or a list.
        labels: (N,) integers in [0, K), likewise.
        epsilon: L-infinity radius in [0, 1] pixel scale, above 0; a number or text as "8/255".
        quick: use at most 256 of the images, spread evenly, and weaker attacks.
        claim: the robust accuracy in question: in (0, 1], or an attack's result at this epsilon; by default FGSM's on
            the same images.
        surrogate: another classifier of the same images, trained in the ordinary way; its adversarial images are tried
            on the model, and are starting points. Without one, two checks are not made, and some gradients that mislead
            are called honest.
        surrogate_name: its name in the report; by default its class.
        attacks: your own attacks in L-infinity, as `run_attacks` takes them. Each runs on the
            images that are still unbroken. If the model draws random numbers, it runs on all images. All count in the
            worst case.
        batch_size: images per batch.
        seed: of all random numbers.
        progress: whether to show it; by default in a notebook or on a terminal. Or a function, called with (what comes
            next, stages done, stages in all).

    Raises:
        IbrobustError: an argument is not of that form, or the model's output is not (B, K) logits.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = torch.nn.Flatten()  # images of two pixels: the brighter pixel is the class
        >>> images = torch.tensor([[0.2, 0.9], [0.55, 0.5]]).reshape(2, 1, 1, 2)
        >>> report = ibrobust.audit(model, images, [1, 0], epsilon=0.1, quick=True)
        >>> report.clean_accuracy, report.worst_case_accuracy
        (1.0, 0.5)
        >>> report.gradient
        'honest'
    """
    epsilon = read_epsilon(epsilon)
    if epsilon == 0.0:
        raise IbrobustError("The audit's epsilon is 0: give the radius of the claim, for example 8/255.")
    batch_size = check_batch_size(batch_size)
    seed = check_seed(seed)
    own = own_attacks(attacks)
    claimed = None if claim is None else _read_claim(claim, epsilon)
    images, labels = images_and_labels(images, labels)
    effort = QUICK if quick else FULL
    chosen = spread_evenly(labels, effort.images or len(labels))
    guarded = guard(model)
    device = model_device(guarded)
    points = unit_range(images[chosen.to(images.device)], model_reference(guarded))
    targets = labels[chosen.to(labels.device)].to(device).long()
    done = -1

    def report(stage: str) -> None:
        nonlocal done
        done += 1
        if told:
            told(stage, done, STAGES + len(own))

    def described(line: LiveLine) -> Callable[[str, int, int], None]:
        return lambda stage, done, total: line.show(done, total, stage)

    with (
        following(progress, "audit", described) as told,
        evaluation_mode(model, seed=seed),
        counting_passes(guarded) as counter,
    ):
        report("the model itself")
        num_classes = count_classes(guarded, points, targets)
        for attack in own:
            attack.check_fit(channels=points.shape[1], num_classes=num_classes)
        subject, checks = _examined(
            guarded,
            points,
            targets,
            num_classes=num_classes,
            epsilon=epsilon,
            effort=effort,
            batch_size=batch_size,
            seed=seed,
        )
        report("gradients")
        part = subject.part(subject.compared)
        checks += [
            *check_gradients(part),
            *check_gradient_matches_differences(part),
            check_stable_predictions(part),
            check_saturation(part),
        ]
        if surrogate is None:
            runs = run_attacks_for_audit(subject, None, attacks=own, report=report)
        else:
            other = guard(surrogate)
            with evaluation_mode(surrogate, seed=seed):
                count_classes(other, points, targets)
                runs = run_attacks_for_audit(subject, other, attacks=own, report=report)
        if runs.draws and checks[0].passed:  # the check of determinism
            seldom = (
                "The worst-case attack found passes over the same images that differ; the passes of this check did not."
            )
            checks[0] = replace(checks[0], value=None, passed=False, meaning=seldom)
        checks += attack_checks(subject, runs)
        if told:
            told("done", STAGES + len(own), STAGES + len(own))
    return _report(
        subject,
        runs,
        checks,
        claimed,
        cost=counter(),
        quick=quick,
        surrogate=None if surrogate is None else surrogate_name or type(surrogate).__name__,
    )


def _examined(
    model: GuardedModel,
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    epsilon: float,
    effort: Effort,
    batch_size: int,
    seed: int,
) -> tuple[Subject, list[Check]]:
    """Return what is audited, with the images that are right without an attack, and the checks of the model itself.

    The first check, of determinism, decides whether the model is attacked through its average over draws.
    """
    first = spread_evenly(labels, batch_size).to(images.device)
    some = images[first]
    determinism = check_determinism(model, some)
    target = model if determinism.passed else AveragedDraws(model, effort.draws)
    every = torch.ones(len(images), dtype=torch.bool, device=images.device)
    subject = Subject(
        model=model,
        target=target,
        images=images,
        labels=labels,
        clean=every,
        num_classes=num_classes,
        epsilon=epsilon,
        effort=effort,
        batch_size=batch_size,
        seed=seed,
    )
    with clean_draws(subject.attack_seed):
        clean = ~subject.wrong(every, images)
    subject = replace(subject, clean=clean)
    few = some[spread_evenly(labels[first], 16).to(some.device)]
    return subject, [
        determinism,
        check_logits_not_probabilities(model, some),
        check_batch_invariance(target, few, stochastic=subject.stochastic),
        check_grad_mode(model, some, stochastic=subject.stochastic),
        check_clean_accuracy(subject),
        check_epsilon_zero(subject.part(subject.compared)),
    ]


def _report(
    subject: Subject,
    runs: AttackRuns,
    checks: list[Check],
    claim: Claim | None,
    *,
    cost: Cost,
    quick: bool,
    surrogate: str | None,
) -> AuditReport:
    """Return both answers, and the numbers that they follow from."""
    clean, total = subject.clean, len(subject.images)
    fgsm, left = int((clean & ~runs.fgsm).sum()), int((clean & ~runs.worst_case).sum())
    claim = claim or Claim(fgsm / total, "FGSM", fgsm)
    kept = share_kept(claim, left, total)
    chance = guessing_accuracy(subject.labels, subject.num_classes)
    upper_bound = runs.warned or any(check.passed is False and check.name in BLINDING for check in checks)
    return AuditReport(
        robustness=is_it_real(kept, left, total, chance=chance, upper_bound=upper_bound),
        gradient=gradient_answer(checks),
        claim=claim,
        kept=kept,
        upper_bound=upper_bound,
        checks=tuple(checks),
        epsilon=subject.epsilon,
        n=total,
        clean_correct=int(clean.sum()),
        fgsm_correct=fgsm,
        worst_case_correct=left,
        cost=cost,
        quick=quick,
        seed=subject.seed,
        surrogate=surrogate,
        attacks=tuple((label, int(broken.sum())) for label, broken in runs.given.items()),
        chance=chance,
    )


def own_attacks(attacks: Sequence[Attack | AttackFunction | str] | Attack | AttackFunction | str) -> list[Attack]:
    """Return the attacks that an audit is given; raise IbrobustError for one in L2, in bfloat16, or given twice."""
    attacks = attacks if isinstance(attacks, Sequence) and not isinstance(attacks, str) else [attacks]
    chosen = [read_attack(attack) for attack in attacks]
    for attack in chosen:
        require_linf(attack)
        if attack.searches_on_copy:
            raise IbrobustError(f"{attack.label}: an audit attacks the model itself, so leave precision=bf16 out.")
    require_different(chosen)
    return chosen


def _read_claim(claim: float | AttackResult, epsilon: float) -> Claim:
    if isinstance(claim, AttackResult):
        if claim.norm != "Linf" or not math.isclose(claim.epsilon, epsilon, rel_tol=1e-6):
            raise IbrobustError(
                f"The claim is of {claim.attack} at {claim.norm} {format_epsilon(claim.epsilon)} and the audit at Linf "
                f"{format_epsilon(epsilon)}: give a claim at the audit's own epsilon."
            )
        return Claim(claim.robust_accuracy, claim.attack)
    if isinstance(claim, bool) or not isinstance(claim, (int, float)) or not 0.0 < claim <= 1.0:
        raise IbrobustError(f"The claim {claim!r} is not a robust accuracy: give a number in (0, 1], such as 0.47.")
    return Claim(float(claim), "claimed")
