"""The list of models and a model's card, against the cards' own numbers."""

from __future__ import annotations

import json

import pytest
import yaml
from rich.console import Console

from ibrobust.records import AUDIT_VERSION
from ibrobust.registry import add_evaluation, list_models, model_card
from ibrobust.registry.card import ArchitectureRecord
from ibrobust.reporting.card_tables import facts_table
from ibrobust.study.summary import model_facts

LONG = "PGD:loss=margin,steps=50"
FGSM = {"epsilons": [2 / 255, 8 / 255], "correct": [36, 9], "clean_correct": 40, "total": 360}


@pytest.fixture
def evaluated(mine, digits) -> str:
    """A model with a sweep, an attack's worst case on fewer images, and an audit of today."""
    add_evaluation(mine, "fgsm", "head", FGSM, digits)
    worst = {"norm": "Linf", "total": 100, "clean_accuracy": 0.1, "accuracy_under_attack": 0.03}
    result = {"attack": "worst case of A, AutoAttack", "epsilon": 8 / 255, "robust_accuracy": 0.03, **worst}
    add_evaluation(mine, "attacks", "head", {"results": [result]}, digits)
    audit = {"verdict": "not real, honest", "epsilon": 8 / 255, "n": 50, "worst_case_accuracy": 0.25, "surrogate": None}
    add_evaluation(mine, "audit", "head", {**audit, "failed": [], "audit_version": AUDIT_VERSION}, digits)
    return mine


def row_of(run, model: str, decoder: str = "head") -> list[str]:
    line = next(line for line in run("list", model).stdout.splitlines() if f" {decoder} " in line)
    return line.split()[2:]


def test_a_line_has_clean_fgsm_worst_case_verdict_and_size(run, evaluated):
    clean = model_card(evaluated).clean_accuracy["head"].accuracy
    assert row_of(run, evaluated)[:6] == [f"{100 * clean:.1f}", "2.5", "3.0", "not", "real,", "honest"]


def test_an_audit_from_before_todays_rules_is_shown_as_one(run, evaluated, digits):
    audit = model_card(evaluated).evaluations["audit 0.0313725"]["head"]
    older = {key: value for key, value in audit.items() if key != "audit_version"}
    add_evaluation(evaluated, "audit", "head", {**older, "verdict": "sound"}, digits)
    assert row_of(run, evaluated)[3:6] == ["older", "audit:", "sound"]
    shown = " ".join(run("show", evaluated).stdout.split())
    assert "Audit of head at 8/255: older audit: sound (run ibrobust audit again for the current answers)" in shown


def test_what_was_not_measured_at_an_epsilon_is_a_dash(run, evaluated):
    rows = json.loads(run("list", evaluated, "--eps", "2/255", "--json").stdout)
    assert [(row["fgsm"], row["worst_case"], row["verdict"]) for row in rows] == [(0.1, None, None)]


def test_an_epsilon_at_which_nothing_is_stored_is_noted_with_those_that_are(run, evaluated):
    note = "Note: Nothing is stored at 5/255; stored are 2/255, 8/255."
    assert note in run("list", evaluated, "--eps", "5/255").stderr
    assert run("list", evaluated, "--eps", "2/255").stderr == ""


def test_attacks_that_are_not_thorough_are_noted_as_no_worst_case(run, mine, digits):
    place = {"norm": "Linf", "total": 100, "epsilon": 8 / 255, "clean_accuracy": 0.1, "accuracy_under_attack": 0.1}
    add_evaluation(mine, "attacks", "head", {"results": [{**place, "attack": LONG, "robust_accuracy": 0.1}]}, digits)
    note = "Note: Of the attacks stored at 8/255 none is thorough: a worst case needs worst_case or AutoAttack.\n"
    assert run("list", mine).stderr == note


def test_json_has_every_model_and_decoder(run, evaluated):
    rows = json.loads(run("list", "--json").stdout)
    expected = [(name, decoder) for name in list_models() for decoder in model_card(name).decoders]
    assert [(row["model"], row["decoder"]) for row in rows] == expected


@pytest.mark.parametrize(("key", "field"), [("clean", "clean"), ("fgsm", "fgsm"), ("worst", "worst_case")])
def test_numbers_are_sorted_from_the_largest_and_the_unknown_is_last(run, evaluated, key, field):
    values = [row[field] for row in json.loads(run("list", "--sort", key, "--json").stdout)]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=True)
    assert values[: len(known)] == known


def test_models_of_other_images_are_not_between_those_that_can_be_compared(run):
    lines = [line.split() for line in run("list", "--sort", "clean").stdout.splitlines()]
    heads = [words[2] for words in lines if words[:2] == ["trained", "on"]]
    assert sorted(heads) == ["cifar10-jpeg", "digits"]
    first = [place for place, words in enumerate(lines) if words[:2] == ["trained", "on"]][1]
    named = [words[0].endswith("digits") for words in lines[:first] if len(words) > 4 and "-" in words[0]]
    assert len(set(named)) == 1
    assert "trained on" not in run("list", "*digits").stdout


def test_the_column_audit_is_sorted_by_its_name(run):
    assert run("list", "--sort", "audit", "--json").stdout == run("list", "--sort", "verdict", "--json").stdout


def test_an_order_that_is_not_known_is_refused(run):
    finished = run("list", "--sort", "zzz")
    assert finished.returncode == 2
    assert "choose one of name, clean, fgsm" in finished.stderr


def test_no_number_of_the_list_is_cut_off(run):
    assert "…" not in run("list").stdout


def test_show_is_for_people_and_yaml_for_programs(run, evaluated):
    shown = run("show", evaluated).stdout
    assert "schema_version" not in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["FGSM", "360", "10.0", "2.5"] in rows
    assert ["worst", "case", "100", "-", "3.0"] in rows
    assert ["audit,", "worst", "case", "50", "-", "25.0"] in rows
    raw = run("show", evaluated, "--yaml").stdout
    assert raw == model_card(evaluated).to_text()
    assert yaml.safe_load(raw)["name"] == evaluated


def test_a_sentence_about_an_audit_is_one_line_in_a_pipe(run, mine, digits, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    audit = {"verdict": "real, honest", "epsilon": 8 / 255, "n": 50, "worst_case_accuracy": 0.25, "surrogate": None}
    add_evaluation(mine, "audit", "head", audit, digits)  # by the rules of an older version
    (line,) = [line for line in run("show", mine).stdout.splitlines() if line.startswith("Audit of head")]
    assert line.endswith("surrogate none.")


@pytest.mark.parametrize(
    ("model", "objective"),
    [("cross_entropy-digits", "cross_entropy"), ("knn_ib-digits", "knn_ib, beta 0.03, noise on")],
)
def test_show_names_only_settings_that_the_training_had(run, model, objective):
    (shown,) = (line.split(maxsplit=1)[1] for line in run("show", model).stdout.splitlines() if "objective " in line)
    assert shown.strip() == objective


def test_a_network_that_is_not_ibrobusts_is_shown_by_what_builds_it(digits):
    architecture = ArchitectureRecord(factory="my_nets:linear", channels=1, image_size=(8, 8))
    one = model_card("cross_entropy-digits").model_copy(update={"architecture": architecture})
    console = Console(width=100)
    with console.capture() as text:
        console.print(facts_table(one, size=None))
    assert "built by my_nets:linear" in text.get()
    assert "ResNet18" not in text.get()
    recipe = model_facts(one)["recipe"]
    assert recipe["factory"] == "my_nets:linear"
    assert not {"width", "latent_dim", "beta", "noise", "memory_size"} & set(recipe)
    assert model_facts(one.model_copy(update={"recipe": None}))["recipe"] == {"factory": "my_nets:linear"}


@pytest.mark.parametrize(
    ("command", "whole"), [("list", "partly real, misleading"), ("show", "PGD:loss=margin,steps=50")]
)
def test_tables_fit_into_80_columns_and_no_text_is_broken_in_a_pipe(run, mine, digits, monkeypatch, command, whole):
    numbers = {"norm": "Linf", "total": 100, "clean_accuracy": 0.1, "accuracy_under_attack": 0.03}
    epsilons = [n / 255 for n in (1, 2, 3, 4, 8)]
    results = [
        {"attack": "PGD:loss=margin,steps=50", "epsilon": e, "robust_accuracy": 0.03, **numbers} for e in epsilons
    ]
    add_evaluation(mine, "attacks", "head", {"results": results}, digits)
    audit = {"verdict": "partly real, misleading", "epsilon": 8 / 255, "n": 50, "worst_case_accuracy": 0.25}
    add_evaluation(mine, "audit", "head", {**audit, "failed": [], "audit_version": AUDIT_VERSION}, digits)
    arguments = (command, *([mine] if command == "show" else []))
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, run(*arguments).stdout.splitlines())) <= 80
    monkeypatch.delenv("COLUMNS")
    assert any(whole in line for line in run(*arguments).stdout.splitlines())


@pytest.mark.parametrize("command", [("list",), ("show", "MINE"), ("report", "--dataset", "digits")])
def test_a_damaged_evaluation_is_one_sentence(run, mine, digits, command):
    add_evaluation(mine, "audit", "head", {"verdict": "real, honest"}, digits)
    finished = run(*(mine if part == "MINE" else part for part in command))
    assert finished.returncode == 2
    assert f"The card of '{mine}' has an evaluation that cannot be read" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_radius_in_l2_is_no_fraction_of_255(run, mine, digits):
    numbers = {"norm": "L2", "total": 100, "clean_accuracy": 0.1, "accuracy_under_attack": 0.03}
    result = {"attack": "PGD:norm=L2", "epsilon": 0.5, "robust_accuracy": 0.03, **numbers}
    add_evaluation(mine, "attacks", "head", {"results": [result]}, digits)
    header = next(line for line in run("show", mine).stdout.splitlines() if "attack " in line)
    assert header.split()[-2:] == ["L2", "0.5"]


def test_brackets_in_a_description_are_no_markup(run, mine, home):
    path = home / "models" / f"{mine}.yaml"
    path.write_text(path.read_text().replace("description: ''", "description: weights of [/data/run1], [red]"))
    assert "weights of [/data/run1], [red]" in run("show", mine).stdout


def test_headers_stay_whole_on_a_narrow_terminal(run, mine, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert "audit" in run("list", mine).stdout
