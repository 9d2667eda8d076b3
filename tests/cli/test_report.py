"""`ibrobust report`: every model of this machine on one page."""

from __future__ import annotations

import csv
import re
from base64 import b64decode
from pathlib import Path

import yaml

from ibrobust.home import models_dir
from ibrobust.registry import add_evaluation, copy_model, model_card


def test_the_page_has_the_numbers_of_the_cards(run):
    finished = run("report", "*w16-s0", "--out", "page.html")
    assert finished.returncode == 0, finished.stderr
    text = Path("page.html").read_text(encoding="utf-8")
    assert "Models on this machine: cifar10-jpeg" in text
    assert "ibrobust report &#39;*w16-s0&#39; --out page.html" in text
    records = b64decode(re.search(r'href="data:text/csv;base64,([^"]*)"', text)[1]).decode()
    rows = list(csv.DictReader(records.splitlines()))
    card = model_card("cross_entropy-w16-s0")
    of_head = [row for row in rows if (row["model"], row["decoder"]) == (card.name, "head")]
    sweep = card.evaluations["fgsm"]["head"]
    found = {float(r["epsilon"]): float(r["value"]) for r in of_head if r["attack"] == "FGSM" and r["epsilon"]}
    assert found == dict(zip(sweep["epsilons"], sweep["accuracy"], strict=True))
    worst = [r for r in card.evaluations["attacks"]["head"]["results"] if r["attack"].startswith("worst case")]
    shown = {float(r["epsilon"]): float(r["value"]) for r in of_head if r["quantity"] == "worst_case_accuracy"}
    assert shown == {r["epsilon"]: r["robust_accuracy"] for r in worst}


def test_other_data_sets_are_named(run):
    finished = run("report", "--dataset", "nothing")
    assert finished.returncode == 2
    assert "No model of the data set 'nothing' matches '*'" in finished.stderr
    assert "ibrobust list" in finished.stderr


def test_models_of_other_images_with_the_same_name_are_told_apart(run):
    for name in ("mine-a", "mine-b"):
        copy_model("cross_entropy-digits", name)
    path = models_dir() / "mine-b.yaml"
    card = yaml.safe_load(path.read_text())
    before = card["dataset"]["fingerprint"][:8]
    card["dataset"]["fingerprint"] = "0" * 64
    path.write_text(yaml.safe_dump(card))
    finished = run("report", "mine-*", "--out", "page.html")
    assert "the images of 'digits' are not the same for all models" in finished.stderr
    text = Path("page.html").read_text(encoding="utf-8")
    assert f"digits {before}" in text
    assert "digits 00000000" in text


def _records(page: str) -> list[dict[str, str]]:
    found = re.search(r'href="data:text/csv;base64,([^"]*)"', Path(page).read_text(encoding="utf-8"))
    return list(csv.DictReader(b64decode(found[1]).decode().splitlines()))


def test_models_of_other_recipes_are_not_averaged_as_seeds(run):
    assert run("report", "knn_ib-*w16-s*", "--out", "page.html").returncode == 0
    settings = {row["model"]: row["setting"] for row in _records("page.html")}
    seeds = {settings[f"knn_ib-k50-w16-s{seed}"] for seed in range(3)}
    assert len(seeds) == 1
    assert settings["knn_ib-from_start-w16-s0"] not in seeds


def test_a_worst_case_is_of_attacks_that_search_long_and_of_todays_version(run, digits):
    for name in ("weak", "old"):
        copy_model("cross_entropy-digits", name)
    common = {"norm": "Linf", "epsilon": 8 / 255, "total": 30, "clean_accuracy": 0.9, "accuracy_under_attack": 0.3}
    for name, attack in (("weak", "worst case of FGSM, PGD:steps=3"), ("old", "WorstCase")):
        result = {"attack": attack, "robust_accuracy": 0.3, **common}
        add_evaluation(name, "attacks", "head", {"results": [result]}, digits)
    assert run("report", "[wo]*", "--dataset", "digits", "--out", "page.html").returncode == 0
    rows = [row for row in _records("page.html") if row["quantity"] == "worst_case_accuracy"]
    assert [(row["model"], row["value"], row["upper_bound"]) for row in rows] == [("old", "0.3", "True")]


def test_a_model_of_an_objective_that_is_not_installed_is_reported(run):
    copy_model("dropout-w16-s0", "other")
    card = models_dir() / "other.yaml"
    card.write_text(card.read_text().replace("objective: cross_entropy", "objective: my_ib"))
    finished = run("report", "other", "--out", "page.html")
    assert finished.returncode == 0, finished.stderr
    assert "my_ib" in Path("page.html").read_text(encoding="utf-8")
