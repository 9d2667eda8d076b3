"""What a card's stored results become in lists: the worst case of each attack that searches long, and upper bounds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from rich.console import Console

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.records import AUDIT_VERSION, SAME_WORST_CASE, WORST_CASE_VERSION, is_older_attack
from ibrobust.reporting.card_tables import models_table, withstood_table
from ibrobust.reporting.model_rows import audit_sentences, model_rows, withstood

EPSILON = 8 / 255


def card(*results: AttackResult, audit: dict | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        name="mine",
        decoders=["head"],
        dataset=SimpleNamespace(name="digits", fingerprint="mine"),
        recipe=None,
        clean_accuracy={},
        evaluations={
            "attacks": {"head": {"results": [result.summary() for result in results]}},
            "audit": {"head": audit} if audit else {},
        },
    )


def attacked(attack: str, *flags: str, version: int = WORST_CASE_VERSION) -> AttackResult:
    right = (True, False, False, False)
    return AttackResult(attack, "Linf", EPSILON, (True,) * 4, right, 0, 0, flags, attack_version=version)


@pytest.mark.parametrize("attack", ["WorstCase", "WorstCase:escalate=true", "AutoAttack:n_iter=20"])
def test_an_attack_that_searches_long_is_the_worst_case(attack: str) -> None:
    (row,) = model_rows(card(attacked(attack), attacked("PGD")), epsilon=EPSILON, size=None)
    assert row.worst_case == 0.25


@pytest.mark.parametrize(
    ("attack", "worst"),
    [("PGD", None), ("worst case of FGSM, PGD:steps=1", None), ("worst case of PGD, AutoAttack:n_iter=20", 0.25)],
)
def test_weak_attacks_alone_give_no_worst_case(attack: str, worst: float | None) -> None:
    (row,) = model_rows(card(attacked(attack)), epsilon=EPSILON, size=None)
    assert row.worst_case == worst


@pytest.mark.parametrize(
    ("attack", "version", "bound"),
    [
        ("WorstCase", WORST_CASE_VERSION, False),
        ("WorstCase:escalate=true", SAME_WORST_CASE - 1, True),
        ("worst case of WorstCase, PGD", SAME_WORST_CASE - 1, True),
        ("worst case of WorstCase, AutoAttack", SAME_WORST_CASE - 1, False),
        ("AutoAttack", 1, False),
    ],
)
def test_what_an_earlier_version_of_the_attack_left_is_an_upper_bound(attack: str, version: int, bound: bool) -> None:
    one = card(attacked(attack, version=version))
    (row,), (line,) = model_rows(one, epsilon=EPSILON, size=None), withstood(one)
    assert (row.upper_bound, bool(line.upper_bounds)) == (bound, bound)


def test_a_list_says_on_how_many_images_it_is() -> None:
    audit = {"epsilon": EPSILON, "worst_case_accuracy": 0.5, "n": 256, "verdict": "x", "audit_version": AUDIT_VERSION}
    rows = [
        row
        for one in (card(attacked("WorstCase")), card(audit=audit))
        for row in model_rows(one, epsilon=EPSILON, size=None)
    ]
    assert [row.worst_case_total for row in rows] == [4, 256]
    console = Console(width=100)
    with console.capture() as text:
        console.print(models_table(rows))
    printed = " ".join(text.get().split())
    assert "the audit at epsilon 8/255" in printed
    assert "worst on 4 to 256 images" in printed


def test_the_table_marks_the_upper_bounds() -> None:
    audit = {"epsilon": EPSILON, "worst_case_accuracy": 0.5, "n": 4, "upper_bound": True, "audit_version": 0}
    one = card(attacked("WorstCase", "The gradient is exactly zero."), attacked("PGD"), audit=audit)
    console = Console(width=100)
    with console.capture() as text:
        console.print(withstood_table(one, withstood(one)))
    lines = text.get().splitlines()
    (worst,), (pgd,), (audited,) = (
        [line for line in lines if name in line] for name in ("WorstCase", "PGD", "audit, worst")
    )
    assert worst.split()[-1] == "≤25.0"
    assert pgd.split()[-1] == "25.0"
    assert audited.split()[-1] == "≤50.0"


def test_a_list_marks_a_worst_case_that_is_an_upper_bound() -> None:
    flagged = card(attacked("WorstCase", "The gradient is exactly zero."))
    whole = card(attacked("WorstCase"))
    audited = card(audit={"epsilon": EPSILON, "worst_case_accuracy": 0.5, "n": 4, "upper_bound": True, "verdict": "x"})
    rows = [row for one in (flagged, whole, audited) for row in model_rows(one, epsilon=EPSILON, size=None)]
    assert [(row.worst_case, row.upper_bound) for row in rows] == [(0.25, True), (0.25, False), (0.5, True)]
    console = Console(width=100)
    with console.capture() as text:
        console.print(models_table(rows))
    lines = [line for line in text.get().splitlines() if line.startswith("mine")]
    assert [line.split()[4] for line in lines] == ["≤25.0", "25.0", "≤50.0"]
    assert "≤ upper bound" in " ".join(text.get().split())


def test_a_list_marks_an_fgsm_accuracy_that_is_an_upper_bound() -> None:
    sweep = {"epsilons": [EPSILON], "correct": [3], "total": 4}
    flagged, whole = card(), card()
    for one, flags in ((flagged, ["The logits depend on the batch."]), (whole, [])):
        one.evaluations["fgsm"] = {"head": {**sweep, "flags": flags}}
    rows = [row for one in (flagged, whole) for row in model_rows(one, epsilon=EPSILON, size=None)]
    console = Console(width=100)
    with console.capture() as text:
        console.print(models_table(rows))
    lines = [line for line in text.get().splitlines() if line.startswith("mine")]
    assert [line.split()[3] for line in lines] == ["≤75.0", "75.0"]
    assert "≤ upper bound" in " ".join(text.get().split())
    assert [row.fgsm_upper_bound for row in rows] == [True, False]


def test_a_sentence_marks_a_worst_case_that_is_an_upper_bound() -> None:
    audit = {"epsilon": EPSILON, "worst_case_accuracy": 0.5, "n": 4, "verdict": "undecided, honest"}
    current = {**audit, "audit_version": AUDIT_VERSION}
    made = [{**current, "upper_bound": True}, {**current, "upper_bound": False}, {**audit, "upper_bound": False}]
    said = [audit_sentences(card(audit=each))[0] for each in made]
    assert "≤50.0% in the worst case" in said[0]
    assert " 50.0% in the worst case" in said[1]
    assert "≤50.0% in the worst case" in said[2], "an audit by older rules"


def test_a_list_shows_the_worst_case_on_the_most_images() -> None:
    """None of two images is left: this does not hide what is left of four."""
    few = replace(attacked("WorstCase"), clean_correct=(True,) * 2, attacked_correct=(False,) * 2)
    (row,) = model_rows(card(few, attacked("WorstCase")), epsilon=EPSILON, size=None)
    assert (row.worst_case, row.worst_case_total) == (0.25, 4)


def test_a_list_has_no_result_on_other_images_than_the_cards() -> None:
    audit = {"epsilon": EPSILON, "worst_case_accuracy": 0.5, "n": 4, "verdict": "real, honest", "failed": []}
    sweep = {"epsilons": [EPSILON], "correct": [3], "total": 4}
    elsewhere = {"dataset": "others", "dataset_fingerprint": "b"}
    one = card(attacked("WorstCase"), audit={**audit, **elsewhere})
    one.evaluations["attacks"]["head"] |= elsewhere
    one.evaluations["fgsm"] = {"head": {**sweep, **elsewhere}}
    (row,) = model_rows(one, epsilon=EPSILON, size=None)
    assert (row.fgsm, row.worst_case, row.verdict) == (None, None, None)
    assert [line.attack for line in withstood(one)] == [
        "FGSM on others",
        "WorstCase on others",
        "audit, worst case on others",
    ]
    assert audit_sentences(one)[0].startswith("Audit of head on others at 8/255: ")


def test_lists_mark_what_fgsm_did_not_attack_and_count_the_epsilons_that_have_no_room() -> None:
    epsilons = [n / 255 for n in range(1, 9)]
    sweep = {"epsilons": epsilons, "correct": [90] * 8, "total": 100, "zero_gradient": 1, "nonfinite_gradient": 1}
    masked, plain = card(), card()
    for one, found in ((masked, sweep), (plain, {**sweep, "zero_gradient": 0})):
        one.evaluations["fgsm"] = {"head": found}
    rows = [row for one in (masked, plain) for row in model_rows(one, epsilon=EPSILON, size=None)]
    console = Console(width=120)
    with console.capture() as text:
        console.print(models_table(rows))
        console.print(withstood_table(masked, withstood(masked)))
    printed = text.get()
    assert [line.split()[3] for line in printed.splitlines() if line.startswith("mine")] == ["90.0†", "90.0"]
    (fgsm,) = [line for line in printed.splitlines() if line.strip().startswith("FGSM") and "90.0" in line]
    assert fgsm.split()[2:] == ["90.0†"] * 5
    assert "3 further epsilons are in the whole card" in " ".join(printed.split())
    assert " ".join(printed.split()).count("† no sign of robustness") == 2


def test_the_worst_case_is_no_larger_than_what_any_attack_leaves_if_one_of_them_is_thorough() -> None:
    weak = AttackResult("PGD", "Linf", EPSILON, (True,) * 4, (False,) * 4, 0, 0)
    (row,) = model_rows(card(attacked("WorstCase"), weak), epsilon=EPSILON, size=None)
    assert row.worst_case == 0.0


@pytest.mark.parametrize("attack", ["transfer:AutoAttack-net", "PGD:surrogate=WorstCase-x", "mine:NotAutoAttack"])
def test_an_attack_is_not_thorough_because_of_a_name_in_its_options(attack: str) -> None:
    (row,) = model_rows(card(attacked(attack)), epsilon=EPSILON, size=None)
    assert row.worst_case is None
    assert is_older_attack({"attack": f"worst case of WorstCase, {attack}"})


def test_an_autoattack_of_very_few_steps_is_not_thorough() -> None:
    (row,) = model_rows(card(attacked("AutoAttack:n_iter=1")), epsilon=EPSILON, size=None)
    assert row.worst_case is None


@pytest.mark.parametrize(("images", "worst"), [("mine", 0.1), ("others", 0.25)])
def test_robustbenchs_own_autoattack_on_the_models_images_counts(images: str, worst: float) -> None:
    one = card(attacked("WorstCase"))
    record = {"decoder": "head", "threat_model": "Linf", "epsilon": EPSILON, "total": 4, "dataset": "d"}
    record |= {"clean_accuracy": 1.0, "robust_accuracy": 0.1, "flags": [], "dataset_fingerprint": images}
    one.evaluations["robustbench head Linf 0.0313725 4"] = record
    (row,) = model_rows(one, epsilon=EPSILON, size=None)
    assert row.worst_case == worst
    assert [(line.attack, line.accuracy[EPSILON]) for line in withstood(one)] == [
        ("WorstCase", 0.25),
        *([("AutoAttack", 0.1), ("worst case", 0.1)] if images == "mine" else [("AutoAttack on d", 0.1)]),
    ]


def test_a_lower_result_without_a_warning_is_no_upper_bound() -> None:
    one = card(attacked("AutoAttack", "a warning"))
    record = {"decoder": "head", "threat_model": "Linf", "epsilon": EPSILON, "total": 4, "dataset": "d"}
    record |= {"clean_accuracy": 1.0, "robust_accuracy": 0.1, "flags": [], "dataset_fingerprint": "mine"}
    one.evaluations["robustbench head Linf 0.0313725 4"] = record
    (attack, worst) = withstood(one)
    assert (attack.accuracy, attack.upper_bounds) == ({EPSILON: 0.1}, frozenset())
    assert (worst.accuracy, worst.upper_bounds) == ({EPSILON: 0.1}, frozenset())


@pytest.mark.parametrize("strong", [attacked("WorstCase", "a guard"), attacked("WorstCase", version=1)])
def test_a_weak_attack_does_not_make_an_upper_bound_exact(strong: AttackResult) -> None:
    (row,) = model_rows(card(strong, attacked("PGD")), epsilon=EPSILON, size=None)
    assert (row.worst_case, row.upper_bound) == (0.25, True)
    lower = AttackResult("PGD", "Linf", EPSILON, (True,) * 4, (False,) * 4, 0, 0)
    (row,) = model_rows(card(strong, lower), epsilon=EPSILON, size=None)
    assert (row.worst_case, row.upper_bound) == (0.0, True)


def test_the_worst_case_of_a_card_is_over_the_attacks_of_all_runs() -> None:
    weak = AttackResult("worst case of PGD", "Linf", EPSILON, (True,) * 4, (True,) * 4, 0, 0)
    lines = withstood(card(weak, attacked("PGD"), attacked("WorstCase")))
    assert [(line.attack, line.accuracy[EPSILON]) for line in lines] == [
        ("PGD", 0.25),
        ("WorstCase", 0.25),
        ("worst case", 0.25),
    ]


def test_results_that_counted_nan_gradients_as_broken_are_older_ones() -> None:
    result = {"attack": "WorstCase", "nonfinite_gradient": 1, "attack_version": 2, "upper_bound": True}
    assert is_older_attack(result)
    assert is_older_attack({"attack": "PGD", "nonfinite_gradient": 1})
    assert not is_older_attack({**result, "nonfinite_gradient": 0})
    assert not is_older_attack({"attack": "PGD", "nonfinite_gradient": 1, "upper_bound": True})
    assert not is_older_attack({**result, "attack_version": WORST_CASE_VERSION})


def test_a_result_by_older_rules_counts_only_if_there_is_no_other() -> None:
    few, most = (False,) * 4, (True, True, True, False)
    # The older PGD counted images with a NaN gradient as broken.
    older = AttackResult("PGD", "Linf", EPSILON, (True,) * 4, few, 3, 0)
    together = AttackResult("worst case of PGD, WorstCase", "Linf", EPSILON, (True,) * 4, few, 3, 0, attack_version=2)
    current = AttackResult("WorstCase", "Linf", EPSILON, (True,) * 4, most, 0, 0, attack_version=WORST_CASE_VERSION)
    (row,) = model_rows(card(older, together, current), epsilon=EPSILON, size=None)
    assert (row.worst_case, row.upper_bound) == (0.75, False)
    audit = {"epsilon": EPSILON, "worst_case_accuracy": 0.0, "n": 4, "verdict": "x", "audit_version": 1}
    (row,) = model_rows(card(current, audit=audit), epsilon=EPSILON, size=None)
    assert (row.worst_case, row.upper_bound) == (0.75, False)
    (row,) = model_rows(card(older, together), epsilon=EPSILON, size=None)
    assert (row.worst_case, row.upper_bound) == (0.0, True)


def test_the_first_images_are_not_the_evenly_spaced_ones() -> None:
    one = card(attacked("WorstCase"))
    record = {"decoder": "head", "threat_model": "Linf", "epsilon": EPSILON, "total": 4, "dataset": "cifar10"}
    record |= {"clean_accuracy": 1.0, "robust_accuracy": 0.1, "dataset_fingerprint": "mine", "first_images": True}
    one.evaluations |= {"robustbench head Linf 0.0313725 4": record, "robustbench mine": None}
    (row,) = model_rows(one, epsilon=EPSILON, size=None)
    assert row.worst_case == 0.25
    assert "AutoAttack on cifar10, the first 4 images" in [line.attack for line in withstood(one)]


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("fgsm", {"total": 0, "epsilons": [EPSILON], "correct": [0]}),
        ("fgsm", {"total": 10, "epsilons": [EPSILON], "correct": [20]}),
        ("attacks", {"results": [{"attack": "WorstCase", "robust_accuracy": float("nan"), "total": 10}]}),
        ("attacks", {"results": [{"attack": "WorstCase", "robust_accuracy": -0.1, "total": 10}]}),
        ("audit", {"epsilon": EPSILON, "n": 10, "verdict": "real, honest", "worst_case_accuracy": 1.5}),
    ],
)
def test_numbers_that_cannot_be_are_a_damaged_evaluation(kind: str, record: dict) -> None:
    one = card()
    one.evaluations[kind] = {"head": record}
    for read in (partial(model_rows, epsilon=EPSILON, size=None), withstood):
        with pytest.raises(IbrobustError, match=r"has an evaluation that cannot be read \(ValueError: "):
            read(one)
