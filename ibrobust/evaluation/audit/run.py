"""The audit: every check, the verdict, and the worst case image by image."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ibrobust.epsilon import read_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.audit.attack_checks import attack_checks
from ibrobust.evaluation.audit.attack_runs import run_attacks_for_audit
from ibrobust.evaluation.audit.gradient_checks import (
    check_gradient_matches_differences,
    check_gradients,
    check_saturation,
)
from ibrobust.evaluation.audit.model_checks import (
    check_batch_invariance,
    check_clean_accuracy,
    check_determinism,
    check_epsilon_zero,
    check_logits_not_probabilities,
)
from ibrobust.evaluation.audit.report import AuditReport, verdict
from ibrobust.evaluation.audit.subject import FULL, QUICK, DrawAverage, Subject, spread_evenly
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.inputs import ArrayLike, check_batch_size, check_seed, images_and_labels, unit_range
from ibrobust.evaluation.model_state import evaluation_mode, model_device, model_reference
from ibrobust.evaluation.pass_counter import counting_passes
from ibrobust.evaluation.predictions import correct_in_batches, count_classes
from ibrobust.live_line import LiveLine, following

STAGES = 13


def audit(
    model: nn.Module,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: float | str,
    quick: bool = False,
    surrogate: nn.Module | None = None,
    surrogate_name: str | None = None,
    batch_size: int = 250,
    seed: int = 0,
    progress: bool | Callable[[str, int, int], None] | None = None,
) -> AuditReport:
    """Return whether the model's robustness at `epsilon` survives scrutiny, and what is left of it.

    The worst case is over everything that was run at `epsilon` or within it, image by image. A check that compares
    attacks fails where the share of images that speak against the model is above what is tolerated with 95%
    confidence (Clopper-Pearson), so that one odd image in a small sample raises no alarm. A stochastic model is
    attacked through its average over draws. Model mode, parameter gradients and random state are as before
    afterwards.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), K >= 2, on its own device; see `GuardedModel`.
        images: (N, C, H, W) floats in [0, 1], or uint8 in [0, 255]; a tensor, a NumPy array or a list.
        labels: (N,) integers in [0, K), likewise.
        epsilon: L-infinity radius in [0, 1] pixel scale, above 0; a number or text as "8/255".
        quick: 256 of the images, spread evenly, and less effort for each.
        surrogate: another classifier of the same images, trained as usual; its adversarial images are tried too.
        surrogate_name: what the report calls it; by default its class.
        batch_size: images a batch.
        seed: of everything random.
        progress: whether to show it; by default in a notebook or on a terminal. Or a function, called with (what comes
            next, stages done, stages in all).

    Raises:
        IbrobustError: an argument is not of that form, or the model's output is not (B, K) logits.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = torch.nn.Flatten()  # images of two pixels: the brighter pixel is the class
        >>> images = torch.tensor([[0.2, 0.8], [0.55, 0.45]]).reshape(2, 1, 1, 2)
        >>> report = ibrobust.audit(model, images, [1, 0], epsilon=0.1, quick=True)
        >>> report.clean_accuracy, report.worst_case_accuracy
        (1.0, 0.5)
    """
    epsilon = read_epsilon(epsilon)
    if epsilon == 0.0:
        raise IbrobustError("The audit's epsilon is 0: give the radius of the claim, for example 8/255.")
    batch_size = check_batch_size(batch_size)
    seed = check_seed(seed)
    images, labels = images_and_labels(images, labels)
    effort = QUICK if quick else FULL
    chosen = spread_evenly(len(images), effort.images or len(images))
    guarded = guard(model)
    device = model_device(guarded)
    points = unit_range(images[chosen.to(images.device)], model_reference(guarded))
    targets = labels[chosen.to(labels.device)].to(device).long()
    done = -1

    def report(stage: str) -> None:
        nonlocal done
        done += 1
        if told:
            told(stage, done, STAGES)

    def described(line: LiveLine) -> Callable[[str, int, int], None]:
        return lambda stage, done, total: line.show(done, total, stage)

    with (
        following(progress, "audit", described) as told,
        evaluation_mode(model, seed=seed),
        counting_passes(guarded) as counter,
    ):
        report("the model itself")
        num_classes = count_classes(guarded, points, targets)
        some = points[spread_evenly(len(points), batch_size).to(points.device)]
        determinism = check_determinism(guarded, some)
        target = guarded if determinism.passed else DrawAverage(guarded, effort.draws)
        clean = correct_in_batches(target, points, targets, batch_size=batch_size)
        subject = Subject(guarded, target, points, targets, clean, num_classes, epsilon, effort, batch_size, seed)
        checks = [
            determinism,
            check_logits_not_probabilities(guarded, some),
            check_batch_invariance(
                target, some[spread_evenly(len(some), 16).to(some.device)], stochastic=subject.stochastic
            ),
            check_clean_accuracy(subject),
            check_epsilon_zero(subject),
        ]
        report("gradients")
        checks += [
            *check_gradients(subject),
            check_gradient_matches_differences(subject),
            check_saturation(subject),
        ]
        if surrogate is None:
            runs = run_attacks_for_audit(subject, None, report=report)
        else:
            other = guard(surrogate)
            with evaluation_mode(surrogate, seed=seed):
                count_classes(other, points, targets)
                runs = run_attacks_for_audit(subject, other, report=report)
        checks += attack_checks(subject, runs)
        if told:
            told("done", STAGES, STAGES)
    return AuditReport(
        verdict=verdict(checks),
        checks=tuple(checks),
        epsilon=epsilon,
        n=len(points),
        clean_correct=int(clean.sum()),
        fgsm_correct=int((clean & ~runs.fgsm).sum()),
        worst_case_correct=int((clean & ~runs.worst_case).sum()),
        cost=counter.cost,
        quick=quick,
        seed=seed,
        surrogate=None if surrogate is None else surrogate_name or type(surrogate).__name__,
    )
