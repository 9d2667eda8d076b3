"""Do the attacks behave as attacks do on a model whose gradient tells the truth?"""

from __future__ import annotations

from torch import Tensor

from ibrobust.epsilon import format_epsilon
from ibrobust.evaluation.audit.attack_runs import (
    BETTER_STARTS,
    STEPS,
    SURROGATE_START,
    WITHOUT_OWN_GRADIENT,
    AttackRuns,
)
from ibrobust.evaluation.audit.report import ATHALYE, CARLINI, CROCE, KORSHUNOVA, PINTOR, TRAMER, Check
from ibrobust.evaluation.audit.subject import Subject
from ibrobust.evaluation.predictions import guessing_accuracy
from ibrobust.evaluation.statistics import chance_ceiling, exceeds, more_often

FEWEST = 2  # images that a comparison of attacks needs to speak against a model
LATE = 0.1  # of the loss's rise
RISING = 0.5  # of the images that PGD left
STARTED = 0.1  # of what 20 untargeted steps left
MISSED = 0.005  # of all images; AutoAttack warns at 0.002 of 10,000


def attack_checks(subject: Subject, runs: AttackRuns) -> list[Check]:
    """Return the checks that compare attacks, each from counts of the same images."""
    part = subject.part(subject.compared)
    return [
        _share(
            "iterative_not_weaker",
            runs.fgsm[subject.compared] & ~runs.cross_entropy.broken,
            0.01,
            "images are broken by one step of FGSM and by no step of PGD on the same loss: the gradient misleads once "
            "it is followed.",
            ATHALYE,
        ),
        _share(
            "losses_agree",
            runs.margin.broken & ~runs.cross_entropy.broken,
            0.05,
            "images are broken by PGD on the logit margin and not by PGD on cross-entropy: the softmax hides them from "
            "the usual loss.",
            f"{CROCE}; {KORSHUNOVA}",
        ),
        check_silent_success(subject, runs),
        check_loss_rises(runs),
        check_loss_converged(runs),
        _share(
            "more_effort_changes_little",
            runs.harder,
            0.02,
            "images are broken only by twice the steps from new starts: the attack has not converged.",
            CARLINI,
            tried=runs.tried,
        ),
        # Some images always fall only to this attack: at width 16, 3% or less of cross-entropy's and 8% of the kNN
        # objective's.
        _share(
            "targeted_changes_little",
            runs.stages.broken & ~runs.stages.of(STEPS, *BETTER_STARTS, *WITHOUT_OWN_GRADIENT),
            0.03,
            "images are broken only by an attack that targets one class after the other: the nearest class misleads "
            "it, and attacks without a target overstate the robustness.",
            CROCE,
        ),
        check_better_start(subject, runs),
        check_worst_case(runs),
        _share(
            "black_box_not_stronger",
            runs.stages.of(*WITHOUT_OWN_GRADIENT),
            MISSED,
            "images are left by all steps along the model's own gradient in the worst-case attack, and broken by its "
            "other attacks.",
            f"{CROCE}; {ATHALYE}",
        ),
        check_accuracy_falls(runs),
        check_large_epsilon(part, runs),
        check_unbounded(part, runs),
        _share(
            "square_not_stronger",
            runs.square,
            MISSED,
            "images are left by PGD and broken by the Square attack, which uses no gradient.",
            f"{CROCE}; {ATHALYE}",
            tried=runs.tried,
        ),
        check_random_search(runs),
        check_transfer(runs),
        check_averaged_draws(runs),
    ]


def check_silent_success(subject: Subject, runs: AttackRuns) -> Check:
    """Count successes along the path that the last iterate has lost."""
    name = "no_silent_success"
    if subject.stochastic:
        meaning = "Not checked: the draws differ from step to step, and only the last image is judged."
        return Check(name, None, _threshold(0.05), None, meaning, PINTOR)
    return _share(
        name,
        runs.cross_entropy.broken & ~runs.cross_entropy.last_broken,
        0.05,
        "images were broken at a step of PGD and no longer after 20 steps: an attack that reports its last iterate "
        "misses them.",
        PINTOR,
    )


def check_loss_rises(runs: AttackRuns) -> Check:
    """Count survivors whose loss never rose above its start."""
    losses = runs.margin.survivor_losses
    name, threshold = "loss_rises", _threshold(0.05)
    total = losses.shape[1]
    if total == 0:
        return Check(name, None, threshold, None, "PGD left no image.", PINTOR)
    stuck = int((losses[1:].amax(dim=0) <= losses[0]).sum())
    return Check(
        name,
        stuck / total,
        threshold,
        not exceeds(stuck, total, 0.05),
        f"{stuck} of {total} images that PGD left have a loss that never rose above its start: a plateau, "
        "not robustness, may have kept them.",
        PINTOR,
    )


def check_loss_converged(runs: AttackRuns) -> Check:
    """Count survivors whose loss makes much of its rise in the last quarter of the steps."""
    losses = runs.margin.survivor_losses
    name, threshold = "loss_converged", _threshold(RISING)
    total = losses.shape[1]
    if total == 0:
        return Check(name, None, threshold, None, "PGD left no image.", PINTOR)
    best = losses.cummax(dim=0).values
    quarter = len(best) - 1 - (len(best) - 1) // 4
    gain = (best[-1] - best[quarter]) / (best[-1] - best[0]).clamp(min=1e-12)
    rising = int((gain > LATE).sum())
    return Check(
        name,
        rising / total,
        threshold,
        not exceeds(rising, total, RISING),
        f"For {rising} of {total} images that PGD left, more than {LATE:.0%} of the loss's rise came in the last "
        "quarter of the steps: more steps would raise it further.",
        f"{PINTOR}; {CARLINI}",
    )


def check_better_start(subject: Subject, runs: AttackRuns) -> Check:
    """Count what falls to the same steps from a better start, of the images that 20 untargeted steps left.

    The start is an adversarial image of a surrogate. At width 16 it broke 19% to 67% of what was left of models trained
    with the kNN objective, 2 of 48 images of cross-entropy's and 1 of 84 of the adversarially trained model's. To fail,
    it needs to break enough of all images too: of five images left, two are 40%.
    """
    name, threshold = "better_start_changes_little", _threshold(STARTED)
    if runs.transfer is None:
        return Check(name, None, threshold, None, "Without a surrogate there are no such starts.", TRAMER)
    left = subject.clean & ~runs.stages.of(STEPS)
    count, total = int(runs.stages.of(SURROGATE_START).sum()), int(left.sum())
    if total == 0:
        return Check(name, None, threshold, None, "20 untargeted steps left no image.", TRAMER)
    fails = count >= FEWEST and exceeds(count, total, STARTED) and exceeds(count, len(left), MISSED)
    return Check(
        name,
        count / total,
        threshold,
        not fails,
        f"{count} of the {total} images that 20 untargeted steps left are broken by the same steps from an image made "
        "for the surrogate: the gradient at the image misleads.",
        TRAMER,
    )


def check_worst_case(runs: AttackRuns) -> Check:
    """Count what the worst-case attack breaks after its 20 untargeted steps."""
    return _share(
        "worst_case_changes_little",
        runs.stages.broken & ~runs.stages.of(STEPS),
        0.03,
        "images are left by 20 untargeted steps and broken by the later stages of the worst-case attack: ordinary PGD "
        "overstates the robustness.",
        CROCE,
    )


def check_accuracy_falls(runs: AttackRuns) -> Check:
    """Count the images that a larger ball protects."""
    small, large, protected = max(runs.protected, key=lambda pair: int(pair[2].sum()))
    return _share(
        "accuracy_falls_with_epsilon",
        protected,
        0.02,
        f"images are broken at epsilon {format_epsilon(small)} and not at {format_epsilon(large)}, although the "
        "same adversarial image is allowed there.",
        f"{CARLINI}; {ATHALYE}",
    )


def check_large_epsilon(subject: Subject, runs: AttackRuns) -> Check:
    """Compare the accuracy at epsilon 0.5, where every image can be made grey, with guessing."""
    left, total = int((subject.clean & ~runs.large).sum()), len(subject.clean)
    ceiling = chance_ceiling(total, guessing_accuracy(subject.labels, subject.num_classes))
    return Check(
        "large_epsilon_reaches_chance",
        left / total,
        f"at most {100 * ceiling / total:.3g}%",
        left <= ceiling,
        f"{left} of {total} images stay correct under PGD at epsilon 0.5, although any image can be made grey; a "
        "guesser exceeds the threshold once in 100 trials.",
        f"{CARLINI}; {ATHALYE}",
    )


def check_unbounded(subject: Subject, runs: AttackRuns) -> Check:
    """Count the images that stay correct under PGD without a bound.

    Any image can be made any other one there. So this cannot be real, unless no other answer of the model is known.
    """
    remains, total = subject.clean & ~runs.unbounded, len(subject.clean)
    left, right = int(remains.sum()), subject.labels[subject.clean].unique()
    one_answer = len(right) == 1 and bool(remains[subject.labels == right[0]].all())
    return Check(
        "unbounded_reaches_zero",
        left / total,
        _threshold(0.01),
        None if one_answer else not exceeds(left, total, 0.01),
        f"{left} of {total} images stay correct although PGD may set every pixel to any value: "
        f"{'the model may have one answer for all' if one_answer else 'this cannot be real'}.",
        f"{CARLINI}; {ATHALYE}",
    )


def check_random_search(runs: AttackRuns) -> Check:
    """Count what random corners of the ball break and PGD missed."""
    return _share(
        "random_search_not_stronger",
        runs.random,
        MISSED,
        "images are left by PGD and broken by random corners of the ball.",
        f"{CARLINI}; {ATHALYE}",
        tried=runs.tried,
    )


def check_transfer(runs: AttackRuns) -> Check:
    """Count what another model's adversarial images break and PGD missed."""
    name = "transfer_not_stronger"
    if runs.transfer is None:
        return Check(name, None, _threshold(MISSED), None, "No surrogate was given.", TRAMER)
    return _share(
        name,
        runs.transfer,
        MISSED,
        "images are left by PGD and broken by adversarial images made for the surrogate.",
        f"{ATHALYE}; {TRAMER}",
        tried=runs.tried,
    )


def check_averaged_draws(runs: AttackRuns) -> Check:
    """Compare what PGD breaks on a stochastic model's average with what the same PGD breaks on single draws.

    Both end in one image, judged once and by the same average. An image near the boundary may fall either way: the
    average has to win in more images than it loses.
    """
    name = "averaged_draws_not_stronger"
    if runs.plain is None:
        return Check(name, None, _threshold(0.02), None, "The model is deterministic.", ATHALYE)
    won, lost = runs.margin.broken & ~runs.plain, runs.plain & ~runs.margin.broken
    return _share(
        name,
        won,
        0.02,
        f"images are broken when the gradient is averaged over draws (EOT) and not when each step sees one draw, and "
        f"{int(lost.sum())} the other way round: if the first are more, the randomness hid them.",
        ATHALYE,
        never_fails=not more_often(int(won.sum()), int(lost.sum())),
    )


def _share(
    name: str,
    found: Tensor,
    tolerated: float,
    sentence: str,
    reference: str,
    *,
    never_fails: bool = False,
    tried: float = 1.0,
) -> Check:
    """Return the check of the share of all images that `found` (N,) marks.

    If an attack was tried on the share `tried` of the images it could have broken, they stand for that share of all.
    """
    # A single image is never enough, even where it is one of ten.
    count, total = int(found.sum()), max(round(tried * len(found)), int(found.sum()))
    return Check(
        name,
        count / total if total else 0.0,
        _threshold(tolerated),
        never_fails or count < FEWEST or not exceeds(count, total, tolerated),
        f"{count} of {total} {sentence}",
        reference,
    )


def _threshold(tolerated: float) -> str:
    return f"at most {100 * tolerated:g}%, with 95% confidence"
