"""How the results in a card are combined, and which of them a new one replaces."""

from __future__ import annotations

import pytest

from ibrobust.card_results import WeakerResultError, strictest, with_result
from ibrobust.records import AUDIT_VERSION, WORST_CASE_VERSION

PLACE = {"norm": "Linf", "epsilon": 8 / 255, "total": 100, "robust_accuracy": 0.1}
EXACT = {**PLACE, "attack": "WorstCase", "attack_version": WORST_CASE_VERSION}
BOUND = {**EXACT, "attack": "AutoAttack", "upper_bound": True}


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([EXACT], (0.1, False)),
        ([EXACT, BOUND], (0.1, True)),
        ([EXACT, {**BOUND, "robust_accuracy": 0.2}], (0.1, False)),
        ([{**EXACT, "robust_accuracy": 0.2}, BOUND], (0.1, True)),
    ],
    ids=["no warning", "both left as many", "the other left more", "the other left fewer"],
)
def test_the_least_accuracy_is_a_bound_if_a_thorough_attack_that_left_it_warned(results, expected):
    assert strictest(results) == expected


@pytest.mark.parametrize("field", ["clean_correct", "zero_gradient", "nonfinite_gradient"])
def test_a_sweep_that_found_other_counts_replaces_the_earlier_one(field):
    """These counts do not depend on epsilon: with the same images, they are of another model or machine."""
    sweep = {"total": 100, "clean_correct": 90, "zero_gradient": 0, "nonfinite_gradient": 0}
    known = {**sweep, "epsilons": [0.1], "correct": [50]}
    new = {**sweep, field: 3, "epsilons": [0.2], "correct": [2]}
    assert with_result({"fgsm": {"head": known}}, "fgsm", "head", new, "mine") == {"fgsm": {"head": new}}


@pytest.mark.parametrize(("kind", "key"), [("attacks", "attacks"), ("audit", "audit 0.1")])
def test_the_same_images_under_another_name_keep_their_place(kind, key):
    """The fingerprint tells images apart, not the name of the data set."""
    result = {"epsilon": 0.1, "n": 100, "results": [EXACT], "dataset": "pets", "dataset_fingerprint": "5a" * 32}
    first = with_result({}, kind, "head", result, "mine")
    again = with_result(first, kind, "head", {**result, "dataset": "copy of pets"}, "mine")
    other = with_result(again, kind, "head", {**result, "dataset_fingerprint": "5b" * 32}, "mine")
    assert list(again) == [f"{key} on pets 5a5a5a5a5a5a"]
    assert list(other) == [f"{key} on pets 5a5a5a5a5a5a", f"{key} on pets 5b5b5b5b5b5b"]
    larger = with_result(again, kind, "head", {**result, "epsilon": 0.1000001 if kind == "attacks" else 0.2}, "mine")
    assert len(larger) == (1 if kind == "attacks" else 2)


def test_a_worst_case_at_a_larger_epsilon_goes_with_the_older_result_that_it_was_over():
    """What the older PGD broke at 4/255 counts as broken at 8/255 too."""
    older = {**PLACE, "attack": "PGD", "epsilon": 4 / 255, "nonfinite_gradient": 30}
    over = {**EXACT, "attack": "worst case of PGD, WorstCase"}
    smaller = {**over, "epsilon": 2 / 255}
    new = {**older, "nonfinite_gradient": 0}
    before = {"attacks": {"head": {"results": [older, over, smaller]}}}
    after = with_result(before, "attacks", "head", {"results": [new]}, "mine")
    assert after["attacks"]["head"]["results"] == [smaller, new]


@pytest.mark.parametrize("field", ["robust_accuracy", "epsilon", "total"])
def test_a_repeat_that_breaks_fewer_of_the_same_images_does_not_weaken_the_bound(field):
    strong = {**PLACE, "attack": "AutoAttack"}
    weak = {**strong, "robust_accuracy": 0.3, "upper_bound": True, field: 2 * strong[field]}
    before = {"attacks": {"head": {"results": [strong]}}}
    after = with_result(before, "attacks", "head", {"results": [weak]}, "mine")["attacks"]["head"]["results"]
    assert after == ([strong] if field == "robust_accuracy" else [strong, weak])


def test_an_audit_without_a_surrogate_does_not_replace_one_with_a_surrogate():
    audit = {"epsilon": 0.1, "n": 100, "quick": True, "audit_version": AUDIT_VERSION, "verdict": "not real, misleading"}
    known = with_result({}, "audit", "head", {**audit, "surrogate": "other"}, "mine")
    with pytest.raises(WeakerResultError, match="with the surrogate other .* this one has no surrogate"):
        with_result(known, "audit", "head", {**audit, "surrogate": None}, "mine")
    full = {**audit, "surrogate": None, "quick": False}
    assert with_result(known, "audit", "head", full, "mine") == {"audit 0.1": {"head": full}}


def test_a_sweep_over_the_epsilons_of_two_keeps_the_warnings_of_both():
    sweep = {"total": 100, "clean_correct": 90, "zero_gradient": 0, "nonfinite_gradient": 0}
    known = {**sweep, "epsilons": [0.1], "correct": [50], "flags": ["a warning"]}
    new = {**sweep, "epsilons": [0.2], "correct": [2]}
    merged = with_result({"fgsm": {"head": known}}, "fgsm", "head", new, "mine")["fgsm"]["head"]
    assert (merged["epsilons"], merged["flags"]) == ([0.1, 0.2], ["a warning"])
