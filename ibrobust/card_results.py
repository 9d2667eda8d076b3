"""The results of evaluations in a model's card: where each is, and how a new one is put beside the others.

A card has them by key and decoder, `{"fgsm": {"head": {...}}, "audit 0.0313725": {"head": {...}}}`. The key begins with
the kind, and names what else tells results apart: the epsilon of an audit, and images other than the card's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ibrobust.errors import IbrobustError
from ibrobust.records import WORST_CASE_OF, is_older_attack, is_older_audit, is_thorough

Record = Mapping[str, Any]
KINDS = ("fgsm", "attacks", "audit")
BENCHMARK = "robustbench"  # begins the keys of RobustBench's benchmark
# What tells the results of attacks apart.
_PLACE = ("attack", "norm", "epsilon", "total")


class WeakerResultError(IbrobustError):
    """The card already holds a result on more images, or a full audit instead of a quick one."""


def results_in(evaluations: Mapping[str, Any], kind: str, decoder: str) -> Iterator[dict[str, Any]]:
    """Yield the results of one of `KINDS` of a decoder, on all images that were attacked.

    Raises:
        ValueError: one of them has a number that cannot be.
    """
    for key, records in evaluations.items():
        if key.partition(" ")[0] == kind and (found := (records or {}).get(decoder)):
            yield _possible(found)


def _possible(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result; raise ValueError if one of its accuracies, counts or epsilons cannot be."""
    total = result.get("total", result.get("n", 1))
    if not 1 <= total < math.inf:
        raise ValueError(f"{total} images")
    for field, value in result.items():
        is_share = field.endswith("accuracy") or field == "accuracy_under_attack"
        is_count = field.endswith(("correct", "_gradient"))
        most = 1 if is_share else total if is_count else math.inf
        if is_share or is_count or field in ("epsilon", "epsilons"):
            for number in value if isinstance(value, list) else [value]:
                if not 0 <= number <= most:
                    raise ValueError(f"{field} is {number}")
    return result


def attacked_in(evaluations: Mapping[str, Any], decoder: str, own: str) -> Iterator[dict[str, Any]]:
    """Yield the results of attacks on a decoder, each with `dataset` if it is of other images than the card's own.

    Those of RobustBench's benchmark are among them, as results of AutoAttack.
    """
    for record in results_in(evaluations, "attacks", decoder):
        elsewhere = {} if is_own(record, own) else {"dataset": record.get("dataset")}
        yield from ({**_possible(result), **elsewhere} for result in record.get("results", ()))
    for key, record in evaluations.items():
        if key.startswith(f"{BENCHMARK} {decoder} ") and isinstance(record, Mapping):
            # All other evaluations take evenly spaced images.
            first = f", the first {record['total']:,} images" if record.get("first_images") else ""
            is_of_own = record.get("dataset_fingerprint") == own and not first
            numbers = {field: record[field] for field in ("epsilon", "total", "clean_accuracy", "robust_accuracy")}
            yield {
                "attack": "AutoAttack",
                "norm": record["threat_model"],
                **_possible(numbers),
                "accuracy_under_attack": record["robust_accuracy"],
                "upper_bound": bool(record.get("flags")),
                **({} if is_of_own else {"dataset": f"{record['dataset']}{first}"}),
            }


def is_own(record: Record, own: str) -> bool:
    """Return whether a result is of the card's own images, whose fingerprint is given."""
    return record.get("dataset_fingerprint") in (None, own)


def strictest(results: Sequence[Record]) -> tuple[float, bool]:
    """Return the smallest robust accuracy of several results on the same images, and whether it is an upper bound.

    Results by older rules count only if there are no others: they may be too low, because images with a NaN gradient
    counted as broken. If several thorough attacks left the smallest accuracy, it is an upper bound if any of them
    warned, as in the worst case over attacks: the warning is about the model's gradient, which the others follow too.
    What a weak attack found alone is exact only if a thorough one finished without a warning.
    """
    current = [result for result in results if not _is_older(result)]
    least = min(result["robust_accuracy"] for result in current or results)
    if not current:
        return least, True
    thorough = [result for result in current if "verdict" in result or is_thorough(result["attack"])]
    found = [result for result in thorough if result["robust_accuracy"] == least]
    if found:
        return least, any(result.get("upper_bound") for result in found)
    return least, all(result.get("upper_bound") for result in thorough)


def _is_older(result: Record) -> bool:
    return is_older_audit(result) if "verdict" in result else is_older_attack(result)


def with_result(
    evaluations: Mapping[str, Any], kind: str, decoder: str, record: Record, own: str
) -> dict[str, dict[str, Any]]:
    """Return the evaluations of a card with a new result in it.

    Results of other decoders, attacks, epsilons, images and numbers of images stay. A damaged one in its place, which
    cannot be compared with it, is replaced.

    Args:
        evaluations: of the card.
        kind: of the result: one of `KINDS`, or `BENCHMARK`.
        decoder: that was evaluated.
        record: the result.
        own: fingerprint of the card's own images.

    Raises:
        WeakerResultError: the card holds a stronger one in its place.
    """
    if kind == BENCHMARK:
        key = benchmark_key(evaluations, decoder, record, own)
        return {**evaluations, key: _stronger_benchmark(evaluations.get(key), record)}
    key = _key(evaluations, kind, record, own)
    records = evaluations.get(key)
    records = records if isinstance(records, Mapping) else {}
    merge = {"fgsm": _merged_sweeps, "attacks": _merged_attacks, "audit": _later_audit}[kind]
    try:
        merged = merge(_possible(records.get(decoder) or {}), record)
    except WeakerResultError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError):
        merged = dict(record)
    return {**evaluations, key: {**records, decoder: merged}}


def _key(evaluations: Mapping[str, Any], kind: str, record: Record, own: str) -> str:
    epsilon = record.get("epsilon")
    key = f"{kind} {epsilon:.6g}" if kind == "audit" and isinstance(epsilon, int | float) else kind
    return key if is_own(record, own) else key_on_images(evaluations, key, record)


def benchmark_key(evaluations: Mapping[str, Any], decoder: str, record: Record, own: str) -> str:
    """Return the key of a result of RobustBench's benchmark in a card.

    Args:
        evaluations: of the card.
        decoder: that was attacked.
        record: the result.
        own: fingerprint of the card's own images.
    """
    key = f"{BENCHMARK} {decoder} {record['threat_model']} {record['epsilon']:.6g} {record['total']}"
    return key if record.get("dataset_fingerprint") == own else key_on_images(evaluations, key, record)


def key_on_images(evaluations: Mapping[str, Any], key: str, record: Record) -> str:
    """Return the whole key of a result on images that are not the card's own.

    It ends with the name of the images and their fingerprint. If the card has the same images under another name, its
    key is returned: the same images must not stand in it twice.
    """
    fingerprint = record.get("dataset_fingerprint")
    end = f" {str(fingerprint)[:12]}"
    known = (each for each in evaluations if each.startswith(f"{key} on ") and each.endswith(end) and fingerprint)
    return next(known, f"{key} on {record.get('dataset')}{end}")


def _merged_sweeps(known: Record, new: Record) -> dict[str, Any]:
    """Return a sweep over the epsilons of both, if the images were the same."""
    _require_as_many(known.get("total", 0), new.get("total", 0), "an FGSM sweep")
    of_images = ("total", "clean_correct", "zero_gradient", "nonfinite_gradient")
    if not known or any(known.get(field) != new.get(field) for field in of_images):
        return dict(new)
    correct: dict[float, int] = {}
    for sweep in (known, new):
        correct |= dict(zip(sweep["epsilons"], sweep["correct"], strict=True))
    epsilons = sorted(correct)
    merged = {**known, **new, "epsilons": epsilons, "correct": [correct[epsilon] for epsilon in epsilons]}
    merged["accuracy"] = [count / new["total"] for count in merged["correct"]]
    if flags := [*known.get("flags", ()), *new.get("flags", ())]:
        merged["flags"] = list(dict.fromkeys(flags))
    if merged["epsilons"] != new["epsilons"]:
        merged.pop("settled_in_bfloat16", None)  # a count over all epsilons of one sweep
    return merged


def _merged_attacks(known: Record, new: Record) -> dict[str, Any]:
    """Return the results of both; of the same attack, norm, epsilon and number of images, that which broke more.

    Both are of the same weights and images, so a repeat with another seed must not weaken what is known. What a worst
    case over several attacks took from a replaced result by older rules may be too low, so it goes too.
    """
    found = {_place(each): each for each in known.get("results", ()) if not is_older_attack(each)}
    stronger = [min(found.get(_place(each), each), each, key=_left) for each in new["results"]]
    measured = {_place(result) for result in new["results"]}
    replaced = [each for each in known.get("results", ()) if _place(each) in measured and is_older_attack(each)]
    kept = [
        result
        for result in known.get("results", ())
        if _place(result) not in measured and not any(_is_over(result, each) for each in replaced)
    ]
    return {**new, "results": [*kept, *stronger]}


def _stronger_benchmark(known: Any, new: Record) -> dict[str, Any]:
    """Return the result that leaves fewer images; the new one if both leave as many, or on other images."""
    same = isinstance(known, Mapping) and all(
        known.get(field) == new.get(field) for field in ("total", "dataset_fingerprint", "first_images")
    )
    left = known.get("robust_correct") if same else None
    is_stronger = isinstance(left, int) and 0 <= left < new["robust_correct"]
    return dict(known if is_stronger else new)


def _is_over(case: Record, result: Record) -> bool:
    """Return whether a result is a worst case that another one is part of, at its own or a smaller epsilon."""
    label = str(case.get("attack"))
    return (
        label.startswith(WORST_CASE_OF)
        and result["attack"] in label.removeprefix(WORST_CASE_OF).split(", ")
        and (case["norm"], case["total"]) == (result["norm"], result["total"])
        and case["epsilon"] >= result["epsilon"]
    )


def _left(result: Record) -> float:
    return float(result["robust_accuracy"])


def _place(result: Record) -> tuple[Any, ...]:
    return tuple(result.get(field) for field in _PLACE)


def _later_audit(known: Record, new: Record) -> dict[str, Any]:
    """Return the new audit, if the known one is not stronger."""
    if known and not is_older_audit(known):
        _require_as_many(known.get("n", 0), new.get("n", 0), "an audit at this epsilon")
        was_quick, is_quick = bool(known.get("quick", True)), bool(new.get("quick"))
        if is_quick and not was_quick:
            raise WeakerResultError("The card already holds a full audit at this epsilon, which stays in it.")
        if is_quick == was_quick and known.get("surrogate") and not new.get("surrogate"):
            raise WeakerResultError(
                f"The card already holds an audit with the surrogate {known['surrogate']} at this epsilon, which stays "
                "in it; this one has no surrogate."
            )
    return dict(new)


def _require_as_many(known: int, new: int, what: str) -> None:
    if new < known:
        raise WeakerResultError(
            f"The card already holds {what} on {known:,} images, which stays in it; this one is on {new:,}."
        )
