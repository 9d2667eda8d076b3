"""Results under attack as lines of a table or a figure: one model under one attack, at every epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.reporting.marks import UNATTACKED_SHARE
from ibrobust.verdicts import Audited, speak_against

if TYPE_CHECKING:
    from ibrobust.evaluation.sweep import SweepResult

SWEEP = "FGSM"


@dataclass(frozen=True)
class Known:
    """What is known of a model with one decoder besides its results under attack.

    Attributes:
        audited: the audit of this decoder at the largest epsilon; None if there is none.
        audits: all audits of the model on the same data set, of all its decoders, `audited` among them.
        is_baseline: trained with plain cross-entropy, and attacked at the head that was trained with it; drawn in
            black.
    """

    audited: Audited | None = None
    audits: tuple[Audited, ...] = ()
    is_baseline: bool = False


@dataclass(frozen=True)
class AttackedModel:
    """One model and its results under attack.

    Attributes:
        model: its name.
        decoder: the decoder it was attacked with.
        results: one sweep; or one result for each attack and epsilon, every attack at the same epsilons.
        worst: the worst case over attacks, image by image: one per epsilon, for each norm with several attacks.
        known: of the model besides.
    """

    model: str
    decoder: str
    results: tuple[SweepResult | AttackResult, ...]
    worst: tuple[AttackResult, ...] = ()
    known: Known = Known()


@dataclass(frozen=True)
class AttackLine:
    """One model under one attack. Accuracies and shares are in [0, 1].

    Attributes:
        model: its name and, in parentheses, its decoder.
        attack: its name with options; "worst case" for that over all attacks of one norm.
        norm: of the epsilons.
        total: number of images.
        clean: accuracy without an attack.
        accuracy: under attack, by epsilon: of images that are correct both without the attack and under it, unless
            `counts_all_correct`.
        counts_all_correct: whether `accuracy` counts images that only the attack makes correct, as a sweep does.
        upper_bounds: the epsilons at which other attacks may break more images.
        warnings: of the attack, one sentence each.
        only_by_attack: the largest share of images that only the attack makes correct, which are not counted.
        zero_gradient: share of images whose gradient is exactly zero; None if it was not measured.
        nonfinite_gradient: share of images with a NaN or infinite gradient.
        is_worst_case: of several attacks.
        known: of the model besides.
    """

    model: str
    attack: str
    norm: str
    total: int
    clean: float
    accuracy: dict[float, float]
    counts_all_correct: bool = False
    upper_bounds: frozenset[float] = frozenset()
    warnings: tuple[str, ...] = ()
    only_by_attack: float = 0.0
    zero_gradient: float | None = None
    nonfinite_gradient: float = 0.0
    is_worst_case: bool = False
    known: Known = Known()

    @property
    def unattacked(self) -> float:
        """Share of images that FGSM could not attack; 0 if this was not measured."""
        return 0.0 if self.zero_gradient is None else self.zero_gradient + self.nonfinite_gradient

    @property
    def is_marked(self) -> bool:
        """Whether so many images were not attacked that the accuracy is no sign of robustness."""
        return self.unattacked > UNATTACKED_SHARE

    @property
    def is_refuted(self) -> bool:
        """Whether an audit speaks against one of its accuracies."""
        return any(map(self._is_refuted_at, self.accuracy))

    def may_be_best(self, epsilon: float, *, others_audited: bool = False) -> bool:
        """Return whether its accuracy at an epsilon may be marked as the best in a table with other models.

        If some of the others were audited, a line without an audit is not the best: it may be no more than untested.
        """
        unknown = others_audited and self.norm == "Linf" and self.known.audited is None
        return not (unknown or self.is_marked or self._is_refuted_at(epsilon) or epsilon in self.upper_bounds)

    def _is_refuted_at(self, epsilon: float) -> bool:
        return speak_against(self.known.audits, epsilon, self.norm)


def attack_lines(model: AttackedModel) -> list[AttackLine]:
    """Return a line for each attack on a model, then one for each worst case."""
    lines: list[AttackLine] = []
    by_attack: dict[str, list[AttackResult]] = {}
    for result in (*model.results, *model.worst):
        if isinstance(result, AttackResult):
            by_attack.setdefault(result.attack, []).append(result)
        else:
            lines.append(_of_sweep(model, result))
    return lines + [_of_results(model, results) for results in by_attack.values()]


def _of_sweep(model: AttackedModel, sweep: SweepResult) -> AttackLine:
    return AttackLine(
        model=f"{model.model} ({model.decoder})",
        attack=SWEEP,
        norm="Linf",
        total=sweep.total,
        clean=sweep.clean_accuracy,
        accuracy=dict(zip(sweep.epsilons, sweep.accuracy, strict=True)),
        counts_all_correct=True,
        upper_bounds=frozenset(sweep.epsilons if sweep.flags else ()),
        warnings=sweep.flags,
        zero_gradient=sweep.zero_gradient_share,
        nonfinite_gradient=sweep.nonfinite_gradient_share,
        known=model.known,
    )


def _of_results(model: AttackedModel, results: list[AttackResult]) -> AttackLine:
    first = results[0]
    is_worst_case = first in model.worst
    return AttackLine(
        model=f"{model.model} ({model.decoder})",
        attack="worst case" if is_worst_case else first.attack,
        norm=first.norm,
        total=first.total,
        clean=first.clean_accuracy,
        accuracy={result.epsilon: result.robust_accuracy for result in results},
        upper_bounds=frozenset(result.epsilon for result in results if result.upper_bound),
        warnings=tuple(dict.fromkeys(flag for result in results for flag in result.flags)),
        only_by_attack=max(result.accuracy_under_attack - result.robust_accuracy for result in results),
        nonfinite_gradient=max(result.nonfinite_gradient for result in results) / first.total,
        is_worst_case=is_worst_case,
        known=model.known,
    )
