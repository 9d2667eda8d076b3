"""Records are one tidy table: pandas reads it as it stands."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pandas as pd

from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.sweep import SweepResult
from ibrobust.records import AUDIT_VERSION, COLUMNS, SAME_AUDIT, read_study_records
from ibrobust.study import CellState, expand, gather_records, study_states
from ibrobust.study.results import RESULTS_FILE, card_rows, rows_of, worst_cases
from ibrobust.study.state import asked_digest, cell_folder, write_state
from ibrobust.study.write_records import write_records


def finish(study, cell, content):
    """Store results of a cell, all of which the study asks for, and that it is done."""
    asked = {
        "fgsm": {name: part["fgsm"]["epsilons"] for name, part in content["decoders"].items() if part.get("fgsm")},
        "attacks": [
            [name, each["attack"], each["epsilon"], each["total"]]
            for name, part in content["decoders"].items()
            for each in part.get("attacks", ())
        ],
        "audits": [
            [name, each["epsilon"]] for name, part in content["decoders"].items() for each in part.get("audits", ())
        ],
        "others": sorted({*content} - {"decoders"}),
    }
    folder = cell_folder(study, cell.name)
    folder.mkdir(parents=True, exist_ok=True)
    images = {"dataset": "digits", "dataset_fingerprint": "0" * 64}
    about = {"model": cell.model, "weights": "0" * 64, **images, "card": None, "asked": asked}
    (folder / RESULTS_FILE).write_text(json.dumps({**about, **content}))
    write_state(study, CellState(cell.name, "done", asked=asked_digest(study)))


def test_pandas_reads_every_value_back(make_study):
    study = make_study({"objective": ["knn_ib"], "beta": [0.03], "noise": [False]}, {"objective": ["cross_entropy"]})
    knn, entropy = expand(study)
    plane = {"2": [{"epoch": 2, "quantity": "entropy", "value": -12.5}]}
    accuracy = {"logistic": {"correct": 120, "total": 360}}
    finish(study, knn, {"decoders": {}, "train_accuracy": accuracy, "information_plane": plane})
    audit = {"epsilon": 8 / 255, "worst_case_accuracy": math.nan, "n": 4, "verdict": "undecided, honest"}
    finish(study, entropy, {"decoders": {"head": {"audits": [audit]}}})
    path = gather_records(study)

    table = pd.read_csv(path)
    assert tuple(table.columns) == COLUMNS
    assert list(table.cell) == [knn.name, knn.name, entropy.name]
    assert list(table.model) == [knn.model, knn.model, entropy.model]
    assert list(table.value[:2]) == [1 / 3, -12.5]
    assert math.isnan(table.value[2])
    assert table.epsilon[2] == 8 / 255
    assert list(table.beta[:2]) == [0.03, 0.03]
    assert table.beta.isna()[2], "cross-entropy has no beta"
    assert table.noise.isna()[2], "and no noise"
    assert list(table.noise[:2]) == [False, False]
    # The figures read the same rows.
    assert [(record.cell, record.epoch, record.num_images) for record in read_study_records(path)] == [
        (knn.name, None, 360),
        (knn.name, 2, None),
        (entropy.name, None, 4),
    ]


def test_records_hold_the_cells_that_are_done_and_no_others(make_study):
    study = make_study({"beta": [0.1, 0.2, 0.3]})
    for cell in (expand(study)[2], expand(study)[0]):
        finish(study, cell, {"decoders": {}, "train_accuracy": {"logistic": {"correct": 1, "total": 2}}})
    assert list(pd.read_csv(gather_records(study)).beta) == [0.1, 0.3]


def _content(**audit):
    def result(attack, *flags):
        return AttackResult(attack, "Linf", 8 / 255, (True,) * 4, (True, False, False, True), 0, 0, flags).to_dict()

    attacks = [result("PGD"), result("WorstCase", "The gradient is exactly zero.")]
    report = {"epsilon": 4 / 255, "worst_case_accuracy": 0.5, "n": 4, "verdict": "undecided, honest", **audit}
    return {"decoders": {"head": {"attacks": attacks, "audits": [report]}}}


def test_upper_bounds_are_in_the_records(tmp_path):
    content = _content(audit_version=AUDIT_VERSION)
    # Of an earlier version of the worst-case attack, whose flag makes it a bound already.
    write_records(tmp_path / "a.csv", [{"cell": "a", "objective": "dib", **row} for row in rows_of(content)])
    bounds = {(r.attack, r.quantity) for r in read_study_records(tmp_path / "a.csv") if r.upper_bound}
    assert bounds == {
        ("WorstCase", "accuracy"),
        ("WorstCase", "robust_accuracy"),
        ("worst case", "worst_case_accuracy"),
    }
    for audit in ({"upper_bound": True}, {"audit_version": SAME_AUDIT - 1}):
        rows = rows_of(_content(**{"audit_version": AUDIT_VERSION, **audit}))
        bounds_of_audit = [row["upper_bound"] for row in rows if row["quantity"] == "audit_worst_case_accuracy"]
        assert bounds_of_audit == [True]


def test_fgsm_of_a_model_that_depends_on_the_batch_is_an_upper_bound_in_the_records():
    def bounds(*flags):
        sweep = SweepResult((0.0, 8 / 255), (3, 2), 3, 0, 0, 4, flags=flags).to_dict()
        rows = rows_of({"decoders": {"head": {"fgsm": sweep}}})
        return [row["upper_bound"] for row in rows if row["quantity"] == "accuracy"]

    assert bounds("The logits depend on the batch.") == [True, True]
    assert bounds() == [None, None]


def test_records_have_the_verdict_of_todays_rules(make_study):
    study = make_study({"beta": [0.1]})
    finish(study, expand(study)[0], _content(audit_version=AUDIT_VERSION - 1))
    verdicts = [record.verdict for record in read_study_records(gather_records(study)) if record.verdict]
    assert verdicts == ["older audit: undecided, honest"]


def test_a_done_cell_is_not_done_without_its_results(make_study):
    study = make_study({"beta": [0.1]})
    (cell,) = expand(study)
    finish(study, cell, _content())
    assert [state.status for state in study_states(study)] == ["done"]
    (cell_folder(study, cell.name) / RESULTS_FILE).unlink()
    assert [state.status for state in study_states(study)] == ["interrupted"]


def test_a_thorough_attack_alone_in_a_card_is_the_worst_case():
    def worst(*attacks):
        results = [
            {"attack": attack, "norm": "Linf", "epsilon": 8 / 255, "total": 4, "clean_accuracy": 1.0, **RESULT}
            for attack in attacks
        ]
        rows = rows_of({"decoders": {"head": {"attacks": results, "audits": []}}})
        return [
            (row["attack"], row["value"], row["upper_bound"])
            for row in rows
            if row["quantity"] == "worst_case_accuracy"
        ]

    assert worst("AutoAttack") == worst("WorstCase:surrogate=a") == [("worst case", 0.25, True)]
    assert worst("PGD") == []
    assert worst("AutoAttack", "PGD", "worst case of AutoAttack, PGD") == [("worst case", 0.25, True)]


RESULT = {"robust_accuracy": 0.25, "accuracy_under_attack": 0.25, "upper_bound": True}


def test_an_audit_by_older_rules_is_called_older_in_the_records():
    (row,) = [row for row in rows_of(_content(audit_version=0)) if row["quantity"] == "audit_worst_case_accuracy"]
    assert row["verdict"] == "older audit: undecided, honest"


def test_attacks_that_judge_a_random_model_on_other_draws_have_one_worst_case_per_epsilon():
    def result(attack, epsilon, clean, robust):
        return AttackResult(attack, "Linf", epsilon, clean, robust, 0, 0).to_dict()

    both, first, none = (True, True), (True, False), (False, False)
    attacks = [
        *(result("PGD", 0.1, both, none), result("AutoAttack", 0.1, both, both), result("AutoAttack", 0.2, both, both)),
        *(result("WorstCase", 0.1, first, first), result("WorstCase", 0.05, first, none)),
    ]
    cases = worst_cases({"decoders": {"head": {"attacks": attacks}}}, "head")
    assert [(case.attack, case.epsilon, case.robust_correct) for case in cases] == [
        ("worst case of WorstCase", 0.05, none),
        ("worst case of WorstCase", 0.1, none),  # the smaller ball is in the larger one
        ("worst case of AutoAttack", 0.2, both),
    ]


def test_an_image_that_only_the_attack_makes_right_counts_under_attack_and_is_not_robust():
    result = AttackResult("PGD", "Linf", 8 / 255, (True, True, False, True), (True, True, True, False), 0, 0)
    rows = rows_of({"decoders": {"head": {"attacks": [result.to_dict()]}}})
    values = {row["quantity"]: row["value"] for row in rows if row.get("attack") == "PGD"}
    assert values == {"accuracy": 0.75, "robust_accuracy": 0.5}


def test_the_time_of_a_training_is_per_epoch():
    training = SimpleNamespace(final_terms={"loss": 0.25}, seconds=30.0, epochs_run=4)
    rows = card_rows(SimpleNamespace(clean_accuracy={}, training=training))
    assert {row["quantity"]: row["value"] for row in rows} == {"final_loss": 0.25, "seconds_per_epoch": 7.5}
