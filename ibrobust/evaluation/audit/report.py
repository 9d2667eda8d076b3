"""What an audit found: the checks, the verdict and the headline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ibrobust.epsilon import format_epsilon
from ibrobust.evaluation.pass_counter import Cost
from ibrobust.readable import Readable
from ibrobust.records import AUDIT_VERSION

CARLINI = "Carlini et al. 2019, On Evaluating Adversarial Robustness"
ATHALYE = "Athalye et al. 2018, Obfuscated Gradients Give a False Sense of Security"
PINTOR = "Pintor et al. 2022, Indicators of Attack Failure"
CROCE = "Croce and Hein 2020, Reliable Evaluation of Adversarial Robustness"
TRAMER = "Tramer et al. 2020, On Adaptive Attacks to Adversarial Example Defenses"
KORSHUNOVA = "Korshunova et al. 2021, A Closer Look at the Adversarial Robustness of IB Models"

# What the gradient alone looks like. A failure is a sign, not yet a verdict: a quantiser with a straight-through
# gradient fails to match differences, and is attacked as well as the model without it.
CROSS_ENTROPY_SIGNS = frozenset({"zero_gradient_cross_entropy", "nonfinite_gradient_cross_entropy"})
GRADIENT_SIGNS = CROSS_ENTROPY_SIGNS | {
    "zero_gradient_margin",
    "nonfinite_gradient_margin",
    "gradient_matches_differences",
    "loss_rises",
}

# Something that the gradient should have found and did not: an attack which should be weaker broke more, or images
# withstand what no image can. The number is then an upper bound with nothing behind it.
CONSEQUENCES = frozenset(
    {
        "iterative_not_weaker",
        "accuracy_falls_with_epsilon",
        "large_epsilon_reaches_chance",
        "unbounded_reaches_zero",
        "square_not_stronger",
        "random_search_not_stronger",
        "transfer_not_stronger",
        "averaged_draws_not_stronger",
    }
)


@dataclass(frozen=True)
class Check:
    """One question to the model.

    Attributes:
        name: of the check.
        figure: what was measured; None where the check does not apply.
        threshold: what the figure is held against, as a sentence's end: "at most 0.01".
        passed: None where the check does not apply.
        meaning: one sentence, with the counts behind the figure.
        reference: where the check comes from.
    """

    name: str
    figure: float | None
    threshold: str
    passed: bool | None
    meaning: str
    reference: str


@dataclass(frozen=True, repr=False)
class AuditReport(Readable):
    """The outcome of an audit.

    Attributes:
        verdict: `masked`, `suspicious` or `sound`, see `verdict`.
        checks: in the order they were made.
        epsilon: L-infinity radius in [0, 1] pixel scale.
        n: images.
        clean_correct: images classified correctly without an attack.
        fgsm_correct: images correct both without an attack and under FGSM with cross-entropy, the figure that the
            worst case replaces.
        worst_case_correct: images that nothing the audit ran at this epsilon breaks.
        cost: passes through the model.
        quick: whether it was the quick audit.
        seed: of everything random.
        surrogate: name of the model that adversarial images were transferred from; None where there was none. A verdict
            may hang on it.
    """

    verdict: str
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

    @property
    def clean_accuracy(self) -> float:
        """Share in [0, 1] of images that are right without an attack."""
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
    def headline(self) -> str:
        """The result in one sentence."""
        failed = f" ({', '.join(check.name for check in self.failed)})" if self.failed else ""
        return (
            f"At epsilon {format_epsilon(self.epsilon)} the worst case leaves {self.worst_case_accuracy:.1%} of "
            f"{self.n} images where FGSM leaves {self.fgsm_accuracy:.1%}, of {self.clean_accuracy:.1%} clean: "
            f"{self.verdict}{failed}."
        )

    def _sentence(self) -> str:
        return self.headline

    def _rows(self) -> list[tuple[str, ...]]:
        outcomes = {True: "pass", False: "FAIL", None: "-"}
        return [
            ("check", "figure", "threshold", "outcome"),
            *(
                (c.name, "-" if c.figure is None else f"{c.figure:.4g}", c.threshold, outcomes[c.passed])
                for c in self.checks
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON and YAML can hold it."""
        return {
            **asdict(self),
            "checks": [asdict(check) for check in self.checks],
            "clean_accuracy": self.clean_accuracy,
            "fgsm_accuracy": self.fgsm_accuracy,
            "worst_case_accuracy": self.worst_case_accuracy,
            "failed": [check.name for check in self.failed],
            "audit_version": AUDIT_VERSION,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> AuditReport:
        """Return the report that `to_dict` wrote."""
        stored = ("verdict", "epsilon", "n", "clean_correct", "fgsm_correct", "worst_case_correct", "quick", "seed")
        return cls(
            checks=tuple(Check(**check) for check in fields["checks"]),
            cost=Cost(**fields["cost"]),
            surrogate=fields.get("surrogate"),
            **{name: fields[name] for name in stored},
        )


def verdict(checks: Sequence[Check]) -> str:
    """Return `masked`, `suspicious` or `sound`.

    Masked: a check of `CONSEQUENCES` failed, or cross-entropy's gradient is zero or not finite and the margin's broke
    what it did not. Suspicious: another check failed, which says that the model, its gradient or the attack is not as
    it is taken to be, and may have an honest reason.
    """
    failed = {check.name for check in checks if check.passed is False}
    if failed & CONSEQUENCES or ("losses_agree" in failed and failed & CROSS_ENTROPY_SIGNS):
        return "masked"
    return "suspicious" if failed else "sound"
