"""Which number of the leaderboard may be the best of its column."""

from __future__ import annotations

import pytest

from ibrobust.records import read_study_records
from ibrobust.reporting.html.leaderboard import leaderboard


def test_an_audit_at_another_epsilon_does_not_speak_against_a_number(study_rows, write_records):
    """An audit calls the model real at 2/255 and not real at 8/255. Another model, which is worse, is real at both."""
    audited = next(row for row in study_rows if row["quantity"] == "audit_worst_case_accuracy")
    worst = {"quantity": "worst_case_accuracy", "attack": "worst case", "norm": "Linf", "verdict": ""}
    rows = []
    for n, verdict in ((2, "real, honest"), (8, "not real, misleading")):
        at = {**audited, "epsilon": n / 255, "verdict": verdict, "value": 0.5}
        other = {**at, "cell": "other", "model": "other", "beta": 0.1, "verdict": "real, honest", "value": 0.4}
        rows += [at, {**at, **worst}, other, {**other, **worst}]
    board = leaderboard(read_study_records(write_records(rows)))
    places = {column.key: place for place, column in enumerate(board.columns)}
    (row,) = [row for row in board.rows if row[places["cell"]].text == audited["cell"]]
    assert [row[places[f"worst_case_accuracy-{n}"]].is_best for n in (2, 8)] == [True, False]


@pytest.mark.parametrize(
    ("verdict", "is_best"), [("not real, honest", True), ("not real, vanishing", False), ("real, misleading", False)]
)
def test_in_l2_a_model_is_the_best_only_if_its_gradient_is_honest(study_rows, write_records, verdict, is_best):
    audited = next(row for row in study_rows if row["quantity"] == "audit_worst_case_accuracy")
    in_l2 = {"quantity": "worst_case_accuracy", "attack": "worst case, L2", "norm": "L2", "epsilon": 0.5, "verdict": ""}
    rows = []
    for name, value, said in (("first", 0.5, verdict), ("second", 0.4, "real, honest"), ("third", 0.3, "real, honest")):
        row = {**audited, "cell": name, "model": name, "verdict": said, "value": value}
        rows += [row, {**row, **in_l2}]
    board = leaderboard(read_study_records(write_records(rows)))
    places = {column.key: place for place, column in enumerate(board.columns)}
    best = {row[places["cell"]].text: row[places["worst_case_accuracy-L2-0.5"]].is_best for row in board.rows}
    assert best == {"first": is_best, "second": not is_best, "third": False}
