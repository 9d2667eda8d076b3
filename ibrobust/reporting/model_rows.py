"""The results of each model and decoder, read from the card alone: rows of a list, and accuracies under each attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ibrobust.card_results import attacked_in, is_own, results_in, strictest
from ibrobust.errors import IbrobustError
from ibrobust.readable import percent
from ibrobust.records import WORST_CASE_OF, is_older_attack, is_older_audit, is_thorough
from ibrobust.reporting.marks import UNATTACKED_SHARE, in_per_cent
from ibrobust.verdicts import Verdict, read_verdict

SAME = 1e-6  # epsilons that differ by less are one

# What a list can be sorted by; numbers with the largest first.
SORT_KEYS = ("name", "clean", "fgsm", "worst", "audit", "size", "verdict")  # audit and verdict are the same


@dataclass(frozen=True)
class ModelRow:
    """One decoder of a model. Accuracies in [0, 1]; None: not measured.

    Attributes:
        model: its name.
        decoder: one of its decoders.
        dataset: that it was trained on.
        objective: that it was trained with; None for a model from outside.
        epsilon: of `fgsm`, `worst_case` and `verdict`.
        clean: accuracy on the test images.
        fgsm: accuracy under FGSM.
        worst_case: robust accuracy under all attacks that were run, image by image, if one of them searches long.
        verdict: the audit's two answers, or "older audit: sound" if its rules were older than the current ones.
        bytes: of the weights file, for all decoders of the model; None if it is missing.
        upper_bound: whether other attacks may break more images than `worst_case`, as today's attack does if
            an earlier version was run.
        fgsm_is_marked: whether FGSM did not change so many images that `fgsm` is no sign of robustness.
        fgsm_upper_bound: whether other attacks may break more images than `fgsm`.
        clean_total: number of images of `clean`.
        fgsm_total: number of images of `fgsm`.
        worst_case_total: number of images of `worst_case`.
    """

    model: str
    decoder: str
    dataset: str
    objective: str | None
    epsilon: float
    clean: float | None
    fgsm: float | None
    worst_case: float | None
    verdict: str | None
    bytes: int | None
    upper_bound: bool = False
    fgsm_is_marked: bool = False
    fgsm_upper_bound: bool = False
    clean_total: int | None = None
    fgsm_total: int | None = None
    worst_case_total: int | None = None


@contextmanager
def readable_evaluations(card: Any) -> Iterator[None]:
    """Turn what a damaged evaluation of a card leads to into one sentence: cards are also written by hand."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise IbrobustError(
            f"The card of {card.name!r} has an evaluation that cannot be read ({type(error).__name__}: {error}): "
            "remove it from the card, and evaluate the model again."
        ) from error


def model_rows(card: Any, *, epsilon: float, size: int | None) -> list[ModelRow]:
    """Return a row for each decoder of a card (`ibrobust.registry.ModelCard`), with the weights' size in bytes.

    Raises:
        IbrobustError: an evaluation in the card is damaged.
    """
    rows = []
    with readable_evaluations(card):
        for decoder in card.decoders:
            clean = card.clean_accuracy.get(decoder)
            audit = next((each for each in _own(card, "audit", decoder) if _same(each["epsilon"], epsilon)), None)
            sweep: dict[str, Any] = next(_own(card, "fgsm", decoder), {})
            fgsm = next((value for at, value in _fgsm(sweep) if _same(at, epsilon)), None)
            worst, bound, worst_total = _worst_case(card, decoder, epsilon) or (None, False, None)
            rows.append(
                ModelRow(
                    model=card.name,
                    decoder=decoder,
                    dataset=card.dataset.name,
                    objective=card.recipe.objective if card.recipe else None,
                    epsilon=epsilon,
                    clean=clean.accuracy if clean else None,
                    fgsm=fgsm,
                    worst_case=worst,
                    verdict=card_verdict(audit).text if audit else None,
                    bytes=size,
                    upper_bound=bound,
                    fgsm_is_marked=_is_marked(sweep),
                    fgsm_upper_bound=bool(sweep.get("flags")),
                    clean_total=clean.total if clean else None,
                    fgsm_total=sweep["total"] if fgsm is not None else None,
                    worst_case_total=worst_total,
                )
            )
    return rows


def sort_rows(rows: Sequence[ModelRow], by: str) -> list[ModelRow]:
    """Return the rows by one of `SORT_KEYS`, what is not known last.

    Names are in order, numbers have the largest first, and verdicts the most trustworthy.
    """
    if by == "name":
        return sorted(rows, key=lambda row: row.model)
    if by in ("audit", "verdict"):
        ranked = [(verdict.rank if (verdict := read_verdict(row.verdict or "")) else (9, 0), row.model) for row in rows]
        return [row for _, row in sorted(zip(ranked, rows, strict=True), key=lambda pair: pair[0])]
    field = {"worst": "worst_case", "size": "bytes"}.get(by, by)

    def key(row: ModelRow) -> tuple[bool, float]:
        value = getattr(row, field)
        return value is None, -(value or 0.0)

    return sorted(rows, key=key)


@dataclass(frozen=True)
class Withstood:
    """A line of a card's table: one decoder under one attack.

    Attributes:
        decoder: that was attacked.
        attack: by name.
        norm: of epsilon.
        total: images.
        accuracy: by epsilon, in [0, 1].
        upper_bounds: the epsilons at which other attacks may break more images.
        is_marked: whether FGSM did not change so many images that its accuracies are no sign of robustness.
    """

    decoder: str
    attack: str
    norm: str
    total: int
    accuracy: dict[float, float]
    upper_bounds: frozenset[float] = frozenset()
    is_marked: bool = False


def withstood(card: Any) -> list[Withstood]:
    """Return the accuracies of a card's decoders: under FGSM and every stored attack, and in the audit's worst case.

    Raises:
        IbrobustError: an evaluation in the card is damaged.
    """
    lines = []
    with readable_evaluations(card):
        for decoder in card.decoders:
            for sweep in results_in(card.evaluations, "fgsm", decoder):
                name = f"FGSM{_elsewhere(card, sweep)}"
                accuracy = dict(sorted(_fgsm(sweep)))
                bound = frozenset(accuracy if sweep.get("flags") else ())
                lines.append(Withstood(decoder, name, "Linf", sweep["total"], accuracy, bound, _is_marked(sweep)))
            found: dict[tuple[str, str, int], dict[float, float]] = {}
            bounds: dict[tuple[str, str, int], set[float]] = {}
            together: dict[tuple[str, str, int, float], list[dict[str, Any]]] = {}
            for result in attacked_in(card.evaluations, decoder, card.dataset.fingerprint):
                elsewhere = f" on {result['dataset']}" if "dataset" in result else ""
                of_images, at = (elsewhere, result["norm"], result["total"]), result["epsilon"]
                together.setdefault((*of_images, at), []).append(result)
                place = (f"{result['attack']}{elsewhere}", *of_images[1:])
                if (
                    result["attack"].startswith(WORST_CASE_OF)
                    or found.get(place, {}).get(at, 1.0) < result["robust_accuracy"]
                ):
                    continue  # below it is over all attacks; or the same attack by RobustBench
                if result["robust_accuracy"] < found.get(place, {}).get(at, 1.0):
                    bounds.get(place, set()).discard(at)  # of a higher result of the same attack
                found.setdefault(place, {})[at] = result["robust_accuracy"]
                if result.get("upper_bound") or is_older_attack(result):
                    bounds.setdefault(place, set()).add(at)
            for (elsewhere, norm, total, at), results in together.items():
                if len(results) > 1 or results[0]["attack"].startswith(WORST_CASE_OF):
                    place = (f"worst case{elsewhere}", norm, total)
                    found.setdefault(place, {})[at], is_bound = strictest(results)
                    if is_bound:
                        bounds.setdefault(place, set()).add(at)
            lines += [
                Withstood(decoder, *place, dict(sorted(by_epsilon.items())), frozenset(bounds.get(place, ())))
                for place, by_epsilon in found.items()
            ]
            for audit in _by_epsilon(results_in(card.evaluations, "audit", decoder)):
                worst = {audit["epsilon"]: audit["worst_case_accuracy"]}
                bound = frozenset(worst if audit.get("upper_bound") or is_older_audit(audit) else ())
                name = f"audit, worst case{_elsewhere(card, audit)}"
                lines.append(Withstood(decoder, name, "Linf", audit["n"], worst, bound))
    return lines


def audit_sentences(card: Any) -> list[str]:
    """Return a sentence on each audit of a card: its answers, what failed, and what it was made with.

    Raises:
        IbrobustError: an evaluation in the card is damaged.
    """
    sentences = []
    with readable_evaluations(card):
        for decoder in card.decoders:
            for audit in _by_epsilon(results_in(card.evaluations, "audit", decoder)):
                sentences.append(_audit_sentence(card, decoder, audit))
    return sentences


def _audit_sentence(card: Any, decoder: str, audit: dict[str, Any]) -> str:
    from ibrobust.epsilon import format_epsilon

    failed = f"; failed: {', '.join(audit['failed'])}" if audit.get("failed") else ""
    answer = card_verdict(audit)
    again = " (run ibrobust audit again for the current answers)" if answer.older else ""
    left = f"{percent(audit['fgsm_accuracy'])} under FGSM, " if "fgsm_accuracy" in audit else ""
    worst = audit["worst_case_accuracy"]
    shown = in_per_cent(worst, is_bound=bool(audit.get("upper_bound")) or is_older_audit(audit))
    return (
        f"Audit of {decoder}{_elsewhere(card, audit)} at {format_epsilon(audit['epsilon'])}: {answer.text}{again}; "
        f"{left}{shown}% in the worst case; surrogate {audit.get('surrogate') or 'none'}{failed}."
    )


def _by_epsilon(audits: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(audits, key=lambda audit: float(audit["epsilon"]))


def card_verdict(audit: dict[str, Any]) -> Verdict:
    """Return the verdict of an audit as a card holds it; an older one's if it was made before today's rules."""
    answer = read_verdict(str(audit["verdict"]))
    if answer is None or is_older_audit(audit):
        return Verdict("", "", str(audit["verdict"]))
    return answer


def _fgsm(sweep: dict[str, Any]) -> Iterator[tuple[float, float]]:
    for epsilon, correct in zip(sweep.get("epsilons", ()), sweep.get("correct", ()), strict=True):
        yield epsilon, correct / sweep["total"]


def _is_marked(sweep: dict[str, Any]) -> bool:
    unattacked = sweep.get("zero_gradient", 0) + sweep.get("nonfinite_gradient", 0)
    return bool(sweep) and unattacked / sweep["total"] > UNATTACKED_SHARE


def _worst_case(card: Any, decoder: str, epsilon: float) -> tuple[float, bool, int] | None:
    """Return the smallest worst case over the most images, whether it is an upper bound, and the number of images."""
    attacked = [
        result
        for result in attacked_in(card.evaluations, decoder, card.dataset.fingerprint)
        if "dataset" not in result and result["norm"] == "Linf" and _same(result["epsilon"], epsilon)
    ]
    audits = [
        {**audit, "total": audit["n"], "robust_accuracy": audit["worst_case_accuracy"]}
        for audit in _own(card, "audit", decoder)
        if _same(audit["epsilon"], epsilon)
    ]
    totals = [*(result["total"] for result in attacked if is_thorough(result["attack"])), *(a["total"] for a in audits)]
    if not totals:
        return None
    return *strictest([result for result in (*attacked, *audits) if result["total"] == max(totals)]), max(totals)


def _own(card: Any, kind: str, decoder: str) -> Iterator[dict[str, Any]]:
    """Yield the results on the card's own images, whose clean accuracy stands beside them."""
    return (found for found in results_in(card.evaluations, kind, decoder) if is_own(found, card.dataset.fingerprint))


def _elsewhere(card: Any, evaluation: dict[str, Any]) -> str:
    """Return " on" and the name of the images if an evaluation was made on others than the card's own; else ""."""
    return "" if is_own(evaluation, card.dataset.fingerprint) else f" on {evaluation.get('dataset')}"


def _same(a: float, b: float) -> bool:
    return abs(a - b) < SAME
