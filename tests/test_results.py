"""What docs/results.md and the cards of the shipped models say is what was measured: docs/records."""

from __future__ import annotations

import argparse
import csv
import importlib
from pathlib import Path

import pytest

from ibrobust.home import zoo_dir
from ibrobust.registry.card import read_card

CHECKOUT = Path(__file__).resolve().parent.parent
CARDS = sorted(path for path in zoo_dir().glob("*-w16-s*.yaml") if not path.stem.startswith("knn_ib-"))
ESTIMATOR_CARDS = sorted({*zoo_dir().glob("knn_ib-*-w*.yaml"), *zoo_dir().glob("*-w32-*.yaml")})


@pytest.fixture
def leaderboard(monkeypatch):
    """The modules of benchmarks/leaderboard.py, which import one another by name."""
    monkeypatch.syspath_prepend(CHECKOUT / "benchmarks")
    return {name: importlib.import_module(f"leaderboard_{name}") for name in ("records", "tables")}


@pytest.fixture
def printed(leaderboard, capsys) -> set[str]:
    """The rows that its commands table and compare print."""
    records = leaderboard["records"].RECORDS
    options = argparse.Namespace(records=records, eps="2/255,4/255,8/255", n_examples=1000)
    names = [path.stem for path in CARDS]
    leaderboard["tables"].print_tables(names, options)
    leaderboard["tables"].print_differences(names, options)
    leaderboard["tables"].print_means(names, options)
    leaderboard["tables"].print_difference_over_seeds(names, options)
    return _rows(capsys.readouterr().out)


def _rows(text: str) -> set[str]:
    """Return a text's table rows of a model."""
    estimator = ("knn_ib-", "cross_entropy-fixed_power-")  # held to records of their own below
    titles = {line: line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    return {line for line, title in titles.items() if "-w16-s" in title and not title.startswith(estimator)}


def test_the_results_have_every_row_that_the_records_give_and_no_other(printed):
    results = _rows((CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8"))
    assert sorted(printed - results) == []
    assert sorted(results - printed) == []


def test_the_readmes_rows_are_those_of_the_records(leaderboard):
    rows = _rows((CHECKOUT / "README.md").read_text(encoding="utf-8"))
    assert len(rows) > 2
    records = leaderboard["records"]
    for row in rows:
        title, *shown = (cell.strip() for cell in row.strip("|").split("|"))
        name, decoder = title.rstrip(")").split(" (")
        measured = records.Records(records.RECORDS, name)
        small, large = (leaderboard["tables"]._cells(measured, decoder, n / 255, 1000) for n in (2, 8))
        wanted = [float(cell.rstrip("*")) for cell in (*small[:4], *large[1:4])]
        # To one decimal, where the records have two.
        assert [float(cell) for cell in shown] == pytest.approx(wanted, abs=0.051), title


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_shipped_card_carries_what_was_measured(path: Path, leaderboard):
    card, records = read_card(path), leaderboard["records"]
    content = records.Records(records.RECORDS, card.name).content
    assert content["weights"] == card.weights.sha256
    assert card.evaluations == records.shipped_evaluations(content, card)


def test_the_estimators_accuracies_are_those_of_the_records():
    """docs/method.md, the table of the trainings through the estimator."""
    with (CHECKOUT / "docs" / "records" / "estimator-accuracy.csv").open(encoding="utf-8") as file:
        records: dict[str, dict[str, str]] = {}
        for row in csv.DictReader(file):
            accuracy = f"{100 * float(row['clean_accuracy']):.2f}"
            records.setdefault(row["run"], {})[row["decoder"]] = accuracy
    text = (CHECKOUT / "docs" / "method.md").read_text(encoding="utf-8")
    table = text.split("| run | own head | logistic | Gaussian mixture |")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[1:]]
    kinds = ("head", "logistic", "gaussian_mixture")
    found = {run: {kind: value for kind, value in zip(kinds, values, strict=True) if value} for run, *values in cells}
    assert found == records


def _estimator_records() -> dict[tuple[str, str, str, str, int], int]:
    """Return the number of correct images by model, decoder, quantity, epsilon and number of images."""
    with (CHECKOUT / "docs" / "records" / "estimator-robustness.csv").open(encoding="utf-8") as file:
        return {
            (row["model"], row["decoder"], row["quantity"], row["epsilon"], int(row["num_images"])): int(row["correct"])
            for row in csv.DictReader(file)
        }


@pytest.mark.parametrize("path", ESTIMATOR_CARDS, ids=lambda path: path.stem)
def test_an_estimators_card_carries_what_was_measured(path: Path):
    card, records = read_card(path), _estimator_records()
    for decoder, sweep in card.evaluations["fgsm"].items():
        assert card.clean_accuracy[decoder].correct == records[(card.name, decoder, "clean", "", 10000)]
        for epsilon, correct in zip(sweep["epsilons"], sweep["correct"], strict=True):
            assert correct == records[(card.name, decoder, "FGSM", f"{epsilon:.6f}", 10000)]


def test_the_estimators_robustness_is_that_of_the_records():
    text = (CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8")
    table = text.split("## Through the estimator")[1].split("|--|--|--|--|--|--|--|--|\n")[1].split("\n\n")[0]
    records = _estimator_records()
    for line in table.splitlines():
        title, *shown = (cell.strip() for cell in line.strip("|").split("|"))
        name, decoder = title.rstrip(")").split(" (")
        epsilons = [f"{n / 255:.6f}" for n in (2, 4, 8)]
        of_all = [records[(name, decoder, "clean", "", 10000)]]
        of_all += [records[(name, decoder, "FGSM", epsilon, 10000)] for epsilon in epsilons]
        assert shown[:4] == [f"{count / 100:.2f}" for count in of_all]
        worst = [records.get((name, decoder, "worst case", epsilon, 1000)) for epsilon in epsilons]
        assert shown[4:] == ["" if count is None else f"{count / 10:.1f}" for count in worst]
