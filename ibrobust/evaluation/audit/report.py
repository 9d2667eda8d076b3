"""What an audit found: two answers, the checks behind them, and the headline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ibrobust.epsilon import format_epsilon
from ibrobust.evaluation.audit.robustness import HALF, Claim, Kept
from ibrobust.evaluation.pass_counter import Cost
from ibrobust.readable import Readable, percent
from ibrobust.records import AUDIT_VERSION
from ibrobust.verdicts import Verdict

CARLINI = "Carlini et al. 2019, On Evaluating Adversarial Robustness"
ATHALYE = "Athalye et al. 2018, Obfuscated Gradients Give a False Sense of Security"
PINTOR = "Pintor et al. 2022, Indicators of Attack Failure"
CROCE = "Croce and Hein 2020, Reliable Evaluation of Adversarial Robustness"
TRAMER = "Tramer et al. 2020, On Adaptive Attacks to Adversarial Example Defenses"
KORSHUNOVA = "Korshunova et al. 2021, A Closer Look at the Adversarial Robustness of IB Models"

SHARE, NATS = "share", "nats"

# What a failed check says about the gradient, with its value, the most telling first.
VANISHING = {
    "zero_gradient_margin": "it is zero for {:.0%} of the images",
    "nonfinite_gradient_margin": "it is NaN or infinite for {:.0%} of the images",
    "zero_gradient_cross_entropy": "cross-entropy's is zero for {:.0%} of the images",
    "nonfinite_gradient_cross_entropy": "cross-entropy's is NaN or infinite for {:.0%} of the images",
    "softmax_saturation": "the softmax is saturated in float32",
    "logits_not_probabilities": "the outputs are probabilities, whose softmax is nearly flat",
}
RANDOM = {
    "determinism": "passes over the same images differ",
}
MISLEADING = {
    "same_logits_with_gradient": "the logits are others when a gradient is taken",
    "better_start_changes_little": "a better start breaks {:.0%} of what 20 steps left",
    "square_not_stronger": "Square, which uses no gradient, breaks a further {:.1%} of the images",
    "black_box_not_stronger": "attacks without the model's own gradient break a further {:.1%} of the images",
    "random_search_not_stronger": "random corners break a further {:.1%} of the images",
    "transfer_not_stronger": "the surrogate's adversarial images break a further {:.1%} of the images",
    "iterative_not_weaker": "one step breaks {:.1%} of the images, and many steps do not",
    "averaged_draws_not_stronger": "averaging over draws breaks a further {:.1%} of the images",
    "accuracy_falls_with_epsilon": "a smaller epsilon breaks {:.1%} of the images, and a larger one does not",
    "unbounded_reaches_zero": "PGD without a bound misses {:.0%} of the images",
    "large_epsilon_reaches_chance": "PGD at epsilon 0.5 misses {:.0%} of the images",
    "worst_case_changes_little": "after 20 steps, the worst-case attack breaks a further {:.1%} of the images",
    "targeted_changes_little": "only aiming at one class after the other breaks {:.1%} of the images",
    "losses_agree": "PGD on the margin breaks a further {:.1%} of the images",
    "gradient_matches_differences": "it does not predict how the margin changes",
    "loss_rises": "the loss does not rise along it for {:.0%} of the images that PGD left",
    "predictions_stable": "small random noise changes the margin by {:.0%}",
}
SAYINGS = {**VANISHING, **RANDOM, **MISLEADING}
PHRASES = {
    "honest": "the gradient is honest",
    "vanishing": "the gradient vanishes",
    "random": "the model is random",
    "misleading": "the gradient misleads",
}

# If one of these fails, no attack that follows the gradient is known to get far, and the worst case is an upper bound.
BLINDING = frozenset(
    {
        "same_logits_with_gradient",
        "zero_gradient_margin",
        "nonfinite_gradient_margin",
        "gradient_matches_differences",
        "gradient_explains_most",
        "loss_rises",
        "predictions_stable",
        "black_box_not_stronger",
        "square_not_stronger",
        "random_search_not_stronger",
        "accuracy_falls_with_epsilon",
        "large_epsilon_reaches_chance",
        "unbounded_reaches_zero",
    }
)


@dataclass(frozen=True)
class Check:
    """One question about the model.

    Attributes:
        name: of the check.
        value: what was measured; None if the check does not apply.
        threshold: what the value is compared with: "at most 1%".
        passed: None if the check does not apply.
        meaning: one sentence, with the counts behind the value.
        reference: the source of the check.
        unit: of the value: `SHARE` for a share in [0, 1], `NATS`, or "" for a plain number.
    """

    name: str
    value: float | None
    threshold: str
    passed: bool | None
    meaning: str
    reference: str
    unit: str = SHARE

    @property
    def shown(self) -> str:
        """The value in its unit: "2.3%", "4.1 nats", "0.0001"; a dash if the check does not apply."""
        if self.value is None:
            return "-"
        if self.unit == SHARE:
            return f"{100.0 * self.value:.3g}%"
        return f"{self.value:.3g}{f' {self.unit}' if self.unit else ''}"


@dataclass(frozen=True, repr=False)
class AuditReport(Readable):
    """The outcome of an audit.

    Attributes:
        robustness: whether it is real: `real`, `partly real`, `not real` or `undecided`, see `is_it_real`.
        gradient: whether it vanished or misleads: `honest`, `vanishing`, `random` or `misleading`, see
            `gradient_answer`.
        claim: the robust accuracy that is in question, FGSM's by default.
        kept: the share of the claim that is left in the worst case, with its 95% interval.
        upper_bound: whether another attack may break more than the worst case.
        checks: in the order they were made.
        epsilon: L-infinity radius in [0, 1] pixel scale.
        n: images.
        clean_correct: images classified correctly without an attack.
        fgsm_correct: images correct both without an attack and under FGSM with cross-entropy.
        worst_case_correct: images that neither the worst-case attack nor another attack of the audit breaks.
        cost: passes through the model.
        quick: whether it was the quick audit.
        seed: of all random numbers.
        surrogate: name of the model whose adversarial images were tried; None if there was none. An answer may depend
            on it.
        attacks: label of each of the caller's own attacks, and the images that it broke; it ran on the images that were
            still unbroken.
        chance: accuracy in (0, 1] of a model that always predicts the most frequent class, see `guessing_accuracy`; 0
            in a record of an earlier version, which lacks it.
    """

    robustness: str
    gradient: str
    claim: Claim
    kept: Kept
    upper_bound: bool
    checks: tuple[Check, ...]
    epsilon: float
    n: int
    clean_correct: int
    fgsm_correct: int
    worst_case_correct: int
    cost: Cost
    quick: bool
    seed: int
    surrogate: str | None = None
    attacks: tuple[tuple[str, int], ...] = ()
    chance: float = 0.0

    @property
    def verdict(self) -> str:
        """Both answers, as records and cards keep them: "not real, misleading"."""
        return Verdict(self.robustness, self.gradient).text

    @property
    def clean_accuracy(self) -> float:
        """Share in [0, 1] of images that are correct without an attack."""
        return self.clean_correct / self.n

    @property
    def fgsm_accuracy(self) -> float:
        """Robust accuracy in [0, 1] under FGSM alone."""
        return self.fgsm_correct / self.n

    @property
    def worst_case_accuracy(self) -> float:
        """Robust accuracy in [0, 1] under everything the audit ran."""
        return self.worst_case_correct / self.n

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def reason(self) -> str:
        """What says that the gradient is not honest; "" if nothing does."""
        kinds = {"honest": {}, "vanishing": VANISHING, "random": RANDOM, "misleading": MISLEADING}
        failed = {check.name: check for check in self.failed}
        for name, saying in kinds[self.gradient].items():
            if name in failed:
                return saying.format(failed[name].value or 0.0)
        return ""

    @property
    def _bound(self) -> str:
        return "at most " if self.upper_bound and self.worst_case_correct else ""

    @property
    def headline(self) -> str:
        """The result in one sentence, which begins with the answer."""
        claimed = "claimed" if self.claim.source == "claimed" else f"under {self.claim.source}"
        text = (
            f"{self.robustness}: {percent(self.claim.accuracy)} {claimed}, {self._bound}"
            f"{percent(self.worst_case_accuracy, is_bound=self.upper_bound)} in the worst case at "
            f"{format_epsilon(self.epsilon)}"
        )
        if self.robustness == "undecided":
            guesses = self.worst_case_accuracy <= self.chance and self.kept.low > HALF
            few = "not better than guessing" if guesses else "too few images to tell"
            text += f" ({'an upper bound' if self.upper_bound else few})"
        text += f"; {PHRASES[self.gradient]}{f' ({self.reason})' if self.reason else ''}"
        others = [check.name for check in self.failed if check.name not in SAYINGS]
        return text + (f"; also failed: {', '.join(others)}" if others else "")

    @property
    def detail(self) -> str:
        """The counts and the interval behind the headline, and what is missing or was added by the caller's attacks."""
        missing = ""
        if self.gradient == "honest" and self.surrogate is None:
            missing = " Without a surrogate, two checks of the gradient were not made."
        own = "".join(f" {label} broke {count} images that all others had left." for label, count in self.attacks)
        share = f"{self.kept.share:.0%} of the claim (95% interval {self.kept.low:.0%} to {self.kept.high:.0%})"
        if self.claim.accuracy == 0.0:
            share = f"and so does {self.claim.source}: there is no claim to test"
        return (
            f"The worst case leaves {self._bound}{self.worst_case_correct} of {self.n} images, {share}; without an "
            f"attack {percent(self.clean_accuracy)} are correct.{own}{missing}"
        )

    def _sentence(self) -> str:
        return f"{self.headline}. {self.detail}"

    def _rows(self) -> list[tuple[str, ...]]:
        outcomes = {True: "pass", False: "FAIL", None: "-"}
        return [
            ("check", "value", "threshold", "outcome"),
            *((check.name, check.shown, check.threshold, outcomes[check.passed]) for check in self.checks),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON and YAML can hold it."""
        return {
            **asdict(self),
            "verdict": self.verdict,
            "headline": self.headline,
            "checks": [asdict(check) for check in self.checks],
            "clean_accuracy": self.clean_accuracy,
            "fgsm_accuracy": self.fgsm_accuracy,
            "worst_case_accuracy": self.worst_case_accuracy,
            "failed": [check.name for check in self.failed],
            "audit_version": AUDIT_VERSION,
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> AuditReport:
        """Return the report that `to_dict` wrote."""
        record = {"chance": 0.0, **record}
        return cls(
            **{
                **{field.name: record[field.name] for field in fields(cls)},
                "claim": Claim(**record["claim"]),
                "kept": Kept(**record["kept"]),
                "checks": tuple(Check(**check) for check in record["checks"]),
                "cost": Cost(**record["cost"]),
                "attacks": tuple((label, count) for label, count in record["attacks"]),
            }
        )


def gradient_answer(checks: Sequence[Check]) -> str:
    """Return `vanishing`, `random`, `misleading` or `honest`: the first whose checks say so.

    vanishing: a gradient is zero, no number or rounding noise. random: the model's logits differ from pass to pass.
    misleading: the gradient exists, and something shows that following it misses adversarial images. Checks of the
    model or of how far an attack has converged say nothing about the gradient.
    """
    failed = {check.name for check in checks if check.passed is False}
    if failed & VANISHING.keys():
        return "vanishing"
    if failed & RANDOM.keys():
        return "random"
    return "misleading" if failed & MISLEADING.keys() else "honest"
