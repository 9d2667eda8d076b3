"""Studies of stored models and references: nothing is trained, and everything can be read back."""

from __future__ import annotations

import base64
import io
import json
import linecache
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.home import models_dir
from ibrobust.records import SAME_WORST_CASE, WORST_CASE_VERSION
from ibrobust.registry import add_evaluation, copy_model, load_model, model_card
from ibrobust.registry.card import read_card
from ibrobust.study import Study, expand, gather_records, load_study, prepare_study, run_cell, run_study, study_states
from ibrobust.study import measure as measure_module
from ibrobust.study import run as run_module
from ibrobust.study.examples import COUNT, adversarial_examples
from ibrobust.study.results import RESULTS_FILE, card_evaluations, results_of_card, rows_of
from ibrobust.study.state import cell_folder, write_state
from ibrobust.study.summary import report_cells
from ibrobust.study.write_cards import study_results, write_cards
from ibrobust.study.write_records import cell_columns, settings_of, without_unlike_worst_cases

COMPARED = ("objective", "beta", "noise", "dropout", "dropconnect", "width", "epochs")
ATTACKS = ["PGD:steps=2", {"attack": "PGD:norm=L2,steps=3", "eps": [0.5, 1.0]}]
EVALUATIONS = {
    "sweep": {"eps": ["8/255", "16/255"], "n_examples": 60},
    "attacks": {"attacks": ATTACKS, "eps": ["16/255"], "n_examples": 30, "decoders": ["default"]},
}


class Dark(nn.Module):
    """Judges handwritten digits by how much ink there is in some places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 32 * 32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


def study_of(
    *models: str, name: str = "given", dataset: str = "digits", evaluations: dict | None = None, **fields: object
) -> Study:
    wanted = EVALUATIONS if evaluations is None else evaluations
    base = {"dataset": dataset}
    return Study.model_validate({"name": name, "base": base, "models": models, "evaluations": wanted, **fields})


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model of the study was trained")

    monkeypatch.setattr(run_module, "train", refuse)
    monkeypatch.setattr(run_module, "copy_model", refuse)


def of(table: pd.DataFrame, **wanted: object) -> list[float]:
    for column, value in wanted.items():
        table = table[table[column] == value]
    return list(table.value)


def test_the_records_of_a_model_are_those_of_the_evaluations_by_hand(no_training):
    study = study_of("cross_entropy-digits", f"{__name__}:Dark")
    assert [(state.status, state.error) for state in run_study(study)] == [("done", "")] * 2
    assert not models_dir().exists()
    table = pd.read_csv(study.folder / "records.csv")
    test = load_dataset("digits").test
    stored, outside = expand(study)
    assert outside.name == f"{__name__}-Dark"
    for cell, decoder, model in (
        (stored, "logistic", load_model("cross_entropy-digits", decoder="logistic")),
        (outside, "head", Dark()),
    ):
        some = test.subset(60)
        sweep = fgsm_sweep(model, some.images, some.labels, [8 / 255, 16 / 255])
        rows = table[(table.cell == cell.name) & (table.decoder == decoder)]
        assert of(rows, attack="FGSM", quantity="accuracy") == list(sweep.accuracy)
    fewer = test.subset(30)
    first = model_card("cross_entropy-digits").decoders[0]
    rows = table[(table.cell == stored.name) & (table.decoder == first)]
    for attack, epsilons, name in (
        ("PGD:steps=2", [16 / 255], "worst case"),
        ("PGD:norm=L2,steps=3", [0.5, 1.0], "worst case, L2"),
    ):
        results = run_attacks(
            load_model("cross_entropy-digits"), fewer.images, fewer.labels, attacks=attack, epsilons=epsilons
        )
        kept = json.loads((cell_folder(study, stored.name) / RESULTS_FILE).read_text())["decoders"][first]["attacks"]
        by_hand = sorted(results, key=lambda result: -result.epsilon)
        assert [AttackResult.from_dict(each) for each in kept if each["attack"] == by_hand[0].attack] == by_hand
        worst = [min(r.robust_accuracy for r in results if r.epsilon <= epsilon) for epsilon in epsilons]
        assert of(rows, quantity="worst_case_accuracy", attack=name) == worst
    # Columns of the training come from the card, where there is one.
    assert set(table[table.cell == stored.name].objective) == {"cross_entropy"}
    assert set(table[table.cell == outside.name].objective) == {"unknown"}
    assert of(table, cell=stored.name, decoder="head", quantity="test_accuracy") == [
        model_card("cross_entropy-digits").clean_accuracy["head"].accuracy
    ]
    assert of(table, cell=outside.name, quantity="test_accuracy") == []


def test_an_attack_may_have_decoders_of_its_own():
    attacks = ["PGD:steps=1", {"attack": "PGD:steps=2", "eps": [0.1], "decoders": ["gaussian_mixture"]}]
    wanted = {"attacks": attacks, "eps": [0.1], "n_examples": 5, "decoders": ["head"]}
    study = study_of("cross_entropy-digits", evaluations={"attacks": wanted})
    run_study(study)
    table = pd.read_csv(study.folder / "records.csv")
    ran = table[table.attack.isin(["PGD:steps=1", "PGD:steps=2"])]
    assert set(zip(ran.decoder, ran.attack, strict=True)) == {
        ("head", "PGD:steps=1"),
        ("gaussian_mixture", "PGD:steps=2"),
    }


def test_an_attack_may_be_for_some_cells():
    cells = {"attack": "PGD:steps=2", "eps": [0.1], "cells": ["knn_*", "nobody", "*Dark"]}
    wanted = {"attacks": ["PGD:steps=1", cells], "eps": [0.1], "n_examples": 5, "decoders": ["default"]}
    names = ("cross_entropy-digits", "knn_ib-digits", f"{__name__}:Dark")
    study = study_of(*names, evaluations={"attacks": wanted})
    with pytest.raises(IbrobustError, match="no cell is called like this: use a pattern of names such as 'cross_entr"):
        run_study(study)
    assert not study.folder.exists()
    cells["cells"].remove("nobody")
    study = study_of(*names, evaluations={"attacks": wanted})
    run_study(study)
    table = pd.read_csv(study.folder / "records.csv")
    assert set(table[table.attack == "PGD:steps=1"].cell) == {cell.name for cell in expand(study)}
    assert set(table[table.attack == "PGD:steps=2"].cell) == {"knn_ib-digits", f"{__name__}-Dark"}


def test_a_worst_case_over_fewer_attacks_than_others_is_not_compared_with_them():
    """PGD on one model alone: the other's accuracy under FGSM is no worst case beside it."""
    some = {"attack": "PGD:steps=2", "eps": [0.1], "cells": ["knn_*"]}
    wanted = {"attacks": ["FGSM", some], "eps": [0.05, 0.1], "n_examples": 20, "decoders": ["logistic"]}
    study = study_of("cross_entropy-digits", "knn_ib-digits", evaluations={"attacks": wanted})
    run_study(study)
    table = pd.read_csv(study.folder / "records.csv")
    worst, under = (table[table.quantity == quantity] for quantity in ("worst_case_accuracy", "robust_accuracy"))
    assert set(zip(worst.cell, worst.epsilon, strict=True)) == {
        ("cross_entropy-digits", 0.05),
        ("knn_ib-digits", 0.05),
        ("knn_ib-digits", 0.1),
    }
    assert len(under) == 5, "each attack's own result stays"


def rows_under(cell: str, *attacks: str, decoder: str = "head", epsilon: float = 0.1, norm: str = "Linf") -> list[dict]:
    row = {"cell": cell, "model": cell, "decoder": decoder, "epsilon": epsilon, "norm": norm}
    rows = [{**row, "quantity": "robust_accuracy", "attack": attack} for attack in attacks]
    return [*rows, {**row, "quantity": "worst_case_accuracy", "attack": "worst case"}]


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([*rows_under("a", "FGSM", "PGD"), *rows_under("b", "PGD", "FGSM")], ["a", "b"]),
        ([*rows_under("a", "FGSM", "PGD"), *rows_under("b", "PGD")], ["a"]),
        ([*rows_under("a", "FGSM"), *rows_under("b", "PGD")], []),
        ([*rows_under("a", "FGSM", "PGD"), *rows_under("a", "FGSM", decoder="logistic")], ["a"]),
        ([*rows_under("a", "FGSM"), *rows_under("b", "FGSM"), *rows_under("b", "PGD", norm="L2")], ["a", "b", "b"]),
        # At 0.2, what PGD broke at 0.1 is broken too.
        (
            [*rows_under("a", "PGD"), *rows_under("a", "FGSM", epsilon=0.2), *rows_under("b", "FGSM", epsilon=0.2)],
            ["a"] * 2,
        ),
        # Attacks that search long.
        ([*rows_under("a", "FGSM", "AutoAttack"), *rows_under("b", "WorstCase")], ["a", "b"]),
        ([*rows_under("a", "AutoAttack"), *rows_under("b", "FGSM"), *rows_under("b", "FGSM", epsilon=0.2)], ["a"]),
        # A model is no surrogate of itself.
        ([*rows_under("a", "PGD"), *rows_under("b", "PGD", "transfer:a")], ["a", "b"]),
        ([*rows_under("a", "PGD"), *rows_under("b", "PGD", "transfer:c")], ["b"]),
    ],
)
def test_worst_cases_are_over_the_same_attacks_or_over_some_that_search_long(rows, kept):
    found = [row["cell"] for row in without_unlike_worst_cases(rows) if row["quantity"] == "worst_case_accuracy"]
    assert found == kept


@pytest.mark.parametrize("others", [[], ["head"], ["head", "logistic"]])
def test_an_attack_on_a_decoder_that_a_model_lacks_is_refused_before_anything_runs(others):
    attacks = [{"attack": "PGD:steps=1", "eps": [0.1], "decoders": [decoder]} for decoder in ("resfc", *others)]
    study = study_of("cross_entropy-digits", evaluations={"attacks": {"attacks": attacks, "decoders": ["head"]}})
    with pytest.raises(IbrobustError, match=r"The attack 'PGD:steps=1' is for resfc, but the cell 'cross_entropy-dig"):
        run_study(study)


def test_entropies_are_those_of_models_that_ibrobust_built(monkeypatch):
    monkeypatch.setattr("ibrobust.estimators.latent_information.DECODER_STEPS", 4)
    study = study_of("knn_ib-digits", f"{__name__}:Dark", evaluations={"entropies": {"n_examples": 120}})
    run_study(study)
    table = pd.read_csv(study.folder / "records.csv")
    known = table[table.quantity.isin(["entropy", "conditional_entropy", "mutual_information", "label_information"])]
    assert list(known.cell) == ["knn_ib-digits"] * 4
    assert set(known.num_images) == {120}


def test_entropies_with_other_settings_are_measured_again(monkeypatch):
    monkeypatch.setattr("ibrobust.estimators.latent_information.DECODER_STEPS", 4)
    made = []
    measured = measure_module.latent_information
    monkeypatch.setattr(measure_module, "latent_information", lambda *a, **k: made.append(k) or measured(*a, **k))

    def run(**wanted: object) -> dict:
        study = study_of("knn_ib-digits", evaluations={"entropies": {"n_examples": 120, **wanted}})
        run_study(study)
        return json.loads((cell_folder(study, "knn_ib-digits") / RESULTS_FILE).read_text())["information"]

    assert run()["num_neighbors"] == 3
    assert run(num_neighbors=5)["num_neighbors"] == 5
    assert run(num_neighbors=5, noise=False)["noise"] is False
    assert run(num_neighbors=5, noise=False, n_examples=100)["num_points"] == 100
    assert len(made) == 4
    run(num_neighbors=5, noise=False, n_examples=100)
    assert len(made) == 4, "it was not made again"


def test_what_is_measured_already_is_kept_when_a_study_gets_more(monkeypatch):
    run_study(study_of("cross_entropy-digits"))
    swept, attacked = [], []
    sweep, attack = measure_module.fgsm_sweep, measure_module.run_attacks
    monkeypatch.setattr(measure_module, "fgsm_sweep", lambda *a, **k: swept.append(a) or sweep(*a, **k))
    monkeypatch.setattr(measure_module, "run_attacks", lambda *a, **k: attacked.append(k) or attack(*a, **k))
    more = {**EVALUATIONS, "attacks": {**EVALUATIONS["attacks"], "eps": ["8/255", "16/255"]}}
    study = study_of("cross_entropy-digits", "knn_ib-digits", evaluations=more)
    assert [state.status for state in run_study(study)] == ["done", "done"]
    assert len(swept) == len(model_card("knn_ib-digits").decoders), "none of the first model"
    assert attacked[0]["epsilons"] == [8 / 255], "of the first model what was new"
    assert len(attacked) == 1 + 4


def test_an_audit_with_the_attacks_that_a_study_names_replaces_the_one_without(monkeypatch):
    audited = []
    audit = measure_module.audit
    monkeypatch.setattr(measure_module, "audit", lambda *a, **k: audited.append(k) or audit(*a, **k))

    def run(**wanted: object) -> list[dict]:
        study = study_of(f"{__name__}:Dark", evaluations={"audit": {"eps": "16/255", "n_examples": 12, **wanted}})
        run_study(study)
        results = json.loads((cell_folder(study, f"{__name__}-Dark") / RESULTS_FILE).read_text())
        return results["decoders"]["head"]["audits"]

    (plain,) = run()
    assert plain["attacks"] == []
    own = ["PGD:steps=2", "FGSM"]
    (report,) = run(attacks=own)
    assert [label for label, _ in report["attacks"]] == own
    assert run(attacks=own, eps=["16/255"]) == [report]
    assert len(audited) == 2, "it was not made again"


def test_the_results_of_other_weights_are_not_reused():
    copy_model("cross_entropy-digits", "mine")
    study = study_of("mine")
    run_study(study)
    path = cell_folder(study, "mine") / RESULTS_FILE
    stored = json.loads(path.read_text())
    weights = stored["weights"]
    for part in stored["decoders"].values():
        part["fgsm"]["correct"] = [0, 0]
    path.write_text(json.dumps({**stored, "weights": "0" * 64}))
    (path.parent / "state.json").unlink()
    run_study(study)
    again = json.loads(path.read_text())
    assert again["weights"] == weights
    assert all(part["fgsm"]["correct"] != [0, 0] for part in again["decoders"].values())


def replace_model(name: str, other: str) -> None:
    (models_dir() / f"{name}.yaml").unlink()
    copy_model(other, name)


def test_a_finished_cell_is_measured_again_if_its_model_was_replaced():
    sweep = {"sweep": {"eps": ["8/255"], "n_examples": 40, "decoders": ["logistic"]}}
    copy_model("cross_entropy-digits", "mine")
    study = study_of("mine", evaluations=sweep)
    run_study(study)
    replace_model("mine", "knn_ib-digits")
    (cell,) = report_cells(study)
    assert (cell["status"], cell.get("recipe")) == ("outdated", None)
    assert [state.status for state in run_study(study)] == ["done"]
    table = pd.read_csv(study.folder / "records.csv")
    few = load_dataset("digits").test.subset(40)
    now = fgsm_sweep(load_model("knn_ib-digits", decoder="logistic"), few.images, few.labels, [8 / 255])
    assert of(table, quantity="accuracy", attack="FGSM") == list(now.accuracy)
    assert set(table.objective) == {"knn_ib"}
    (cell,) = report_cells(study)
    assert (cell["status"], cell["recipe"]["objective"]) == ("done", "knn_ib")


def test_what_was_made_with_a_surrogate_is_made_again_if_it_was_replaced(monkeypatch):
    copy_model("cross_entropy-digits", "other")
    made = []
    attack, audit = measure_module.run_attacks, measure_module.audit
    monkeypatch.setattr(
        measure_module, "run_attacks", lambda *a, **k: made.append(k["attacks"][0].label) or attack(*a, **k)
    )
    monkeypatch.setattr(measure_module, "audit", lambda *a, **k: made.append(k["surrogate_name"]) or audit(*a, **k))
    evaluations = {
        "attacks": {"attacks": ["PGD:steps=1", "transfer:other:steps=1"], "eps": ["8/255"], "n_examples": 4},
        "audit": {"eps": "8/255", "n_examples": 4, "surrogate": "other"},
    }
    study = study_of(f"{__name__}:Dark", evaluations=evaluations)
    run_study(study)
    run_study(study)
    assert made == ["PGD:steps=1", "transfer:other:steps=1", "other"]
    made.clear()
    replace_model("other", "knn_ib-digits")
    (state,) = run_study(study)
    assert (state.status, made) == ("done", ["transfer:other:steps=1", "other"])
    content = json.loads((cell_folder(study, f"{__name__}-Dark") / RESULTS_FILE).read_text())
    assert content["surrogates"] == {"other": model_card("other").weights.sha256}
    assert [each["attack"] for each in content["decoders"]["head"]["attacks"]] == [
        "PGD:steps=1",
        "transfer:other:steps=1",
    ]


def test_what_was_made_with_a_replaced_surrogate_is_forgotten_if_it_is_not_asked_for_any_more():
    copy_model("cross_entropy-digits", "other")
    copy_model("cross_entropy-digits", "mine")

    def run(*attacks: str) -> dict:
        wanted = {"attacks": list(attacks), "eps": ["8/255"], "n_examples": 4, "decoders": ["default"]}
        study = study_of("mine", evaluations={"attacks": wanted})
        assert [state.status for state in run_study(study)] == ["done"]
        (cell,), ((content, _),) = report_cells(study), study_results(study)
        assert cell["status"] == "done"
        return content

    run("PGD:steps=1", "transfer:other:steps=1")
    replace_model("other", "knn_ib-digits")
    content = run("PGD:steps=1")
    assert content["surrogates"] == {}
    labels = [each["attack"] for part in content["decoders"].values() for each in part["attacks"]]
    assert labels == ["PGD:steps=1"]


def test_an_interrupted_attack_starts_anew_if_its_surrogate_was_replaced(monkeypatch):
    copy_model("cross_entropy-digits", "other")
    attacks = {"attacks": ["transfer:other:steps=1"], "eps": ["8/255"], "n_examples": 4}
    study = study_of(f"{__name__}:Dark", evaluations={"attacks": attacks})
    monkeypatch.setattr(measure_module, "BATCH", 2)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(measure_module, "_share_of", lambda *_: interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_study(study)
    (_,) = measure_module.state_folder(cell_folder(study, f"{__name__}-Dark")).glob("*.jsonl")
    replace_model("other", "knn_ib-digits")
    assert [(state.status, state.error) for state in run_study(study)] == [("done", "")]


def test_results_of_a_replaced_surrogate_do_not_go_into_cards():
    for name in ("other", "mine"):
        copy_model("cross_entropy-digits", name)
    attacks = {"attacks": ["transfer:other:steps=1"], "eps": ["8/255"], "n_examples": 4, "decoders": ["default"]}
    study = study_of("mine", evaluations={"attacks": attacks})
    run_study(study)
    replace_model("other", "knn_ib-digits")
    assert write_cards(study) == ([], ["mine"])
    run_study(study)
    assert write_cards(study) == (["mine"], [])


def test_the_results_of_a_cell_that_is_not_done_do_not_go_into_its_card():
    copy_model("cross_entropy-digits", "mine")
    study = study_of("mine", evaluations=SMALL)
    run_study(study)
    (state,) = study_states(study)
    write_state(study, replace(state, status="failed"))
    assert write_cards(study) == ([], ["mine"])
    assert model_card("mine").evaluations == {}


def test_the_results_of_a_reference_that_is_another_module_now_are_not_reused(monkeypatch):
    study = study_of(f"{__name__}:Dark", evaluations={"sweep": {"eps": ["8/255"], "n_examples": 40}})
    run_study(study)
    path = cell_folder(study, f"{__name__}-Dark") / RESULTS_FILE
    before = json.loads(path.read_text())
    again = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: again(seed + 1))
    (path.parent / "state.json").unlink()
    run_study(study)
    after = json.loads(path.read_text())
    assert after["weights"] != before["weights"]
    assert after["decoders"]["head"]["fgsm"]["clean_correct"] != before["decoders"]["head"]["fgsm"]["clean_correct"]


def test_an_audit_by_older_rules_is_made_again():
    study = study_of(f"{__name__}:Dark", evaluations={"audit": {"eps": "16/255", "n_examples": 4}})
    run_study(study)
    path = cell_folder(study, f"{__name__}-Dark") / RESULTS_FILE
    stored = json.loads(path.read_text())
    (report,) = stored["decoders"]["head"]["audits"]
    stored["decoders"]["head"]["audits"] = [{**report, "audit_version": 0, "worst_case_accuracy": 0.99}]
    path.write_text(json.dumps(stored))
    run_study(study)
    assert json.loads(path.read_text())["decoders"]["head"]["audits"] == [report]
    table = pd.read_csv(study.folder / "records.csv")
    assert of(table, quantity="audit_worst_case_accuracy") == [report["worst_case_accuracy"]]


def test_a_study_has_no_result_that_it_does_not_ask_for_any_more():
    def study_with(*attacks: str, eps: list[str], models: tuple[str, ...]) -> Study:
        evaluations = {"attacks": {"attacks": attacks, "eps": eps, "n_examples": 20, "decoders": ["default"]}}
        return study_of(*models, evaluations=evaluations)

    run_study(study_with("PGD:steps=20", eps=["16/255", "64/255"], models=("cross_entropy-digits",)))
    copy_model("cross_entropy-digits", "twin")
    study = study_with("PGD:steps=1", eps=["16/255"], models=("cross_entropy-digits", "twin"))
    run_study(study)
    table = pd.read_csv(study.folder / "records.csv")
    attacked = table[table.attack.notna()]
    assert set(attacked.epsilon) == {16 / 255}
    one, other = (
        attacked[attacked.model == name][["attack", "quantity", "value"]].to_numpy().tolist() for name in study.models
    )
    assert one == other


def test_sweeps_and_examples_that_are_not_asked_for_any_more_are_not_shown(monkeypatch):
    monkeypatch.setattr("ibrobust.estimators.latent_information.DECODER_STEPS", 4)
    wide = {"eps": ["8/255", "16/255"], "n_examples": 20}
    run_study(study_of("knn_ib-digits", evaluations={"sweep": wide, "entropies": {"n_examples": 120}}))
    study = study_of("knn_ib-digits", evaluations={"sweep": {**wide, "eps": ["8/255"], "decoders": ["logistic"]}})
    run_study(study)
    table = pd.read_csv(study.folder / "records.csv")
    assert set(table[table.attack == "FGSM"].decoder) == {"logistic"}
    assert list(table[table.quantity == "accuracy"].epsilon) == [8 / 255]
    assert not set(table.quantity) & {"entropy", "mutual_information"}
    (cell,) = report_cells(study)
    assert cell["examples"]["epsilon"] == 8 / 255
    study = study_of("knn_ib-digits", evaluations={"attacks": {**SMALL["attacks"], "eps": [0], "attacks": ["FGSM"]}})
    run_study(study)
    table = pd.read_csv(study.folder / "records.csv")
    assert set(table.epsilon.dropna()) == {0}
    (cell,) = report_cells(study)
    assert cell["examples"] is None


def test_an_exact_worst_case_is_no_bound_because_of_an_attack_that_is_not_asked_for():
    def asking(*attacks: str) -> Study:
        wanted = {"attacks": list(attacks), "eps": ["8/255"], "n_examples": 4}
        return study_of(f"{__name__}:Dark", evaluations={"attacks": wanted})

    study = asking("PGD:steps=1")
    run_study(asking("PGD:steps=1", "worst_case"))
    path = cell_folder(study, f"{__name__}-Dark") / RESULTS_FILE
    stored = json.loads(path.read_text())
    for each in stored["decoders"]["head"]["attacks"]:
        if each["attack"] == "WorstCase":
            each["flags"] = ["The gradient is exactly zero."]
            each["upper_bound"] = True
    path.write_text(json.dumps(stored))
    run_study(study)
    table = pd.read_csv(study.folder / "records.csv")
    assert table[table.quantity == "worst_case_accuracy"].upper_bound.isna().all()
    assert len(table[table.quantity == "worst_case_accuracy"]) == 1


def test_what_was_measured_for_an_earlier_study_file_is_not_done():
    before = study_of("cross_entropy-digits", evaluations={"sweep": SMALL["sweep"]})
    run_study(before)
    more = study_of("cross_entropy-digits", evaluations=SMALL)
    prepare_study(more)  # and the process was killed
    assert [state.status for state in study_states(more)] == ["interrupted"]
    run_cell(before, "cross_entropy-digits")  # of a process that started with the earlier file
    assert [state.status for state in study_states(more)] == ["interrupted"]
    assert [state.status for state in run_study(more)] == ["done"]
    assert "PGD:steps=2" in set(pd.read_csv(more.folder / "records.csv").attack)


def test_a_replaced_model_leaves_the_records_and_a_removed_one_does_not():
    copy_model("cross_entropy-digits", "mine")
    study = study_of("mine", "cross_entropy-digits", evaluations={"sweep": SMALL["sweep"]})
    run_study(study)
    before = (study.folder / "records.csv").read_text()
    replace_model("mine", "knn_ib-digits")
    assert [state.status for state in study_states(study)] == ["outdated", "done"]
    assert set(pd.read_csv(gather_records(study)).model) == {"cross_entropy-digits"}
    (models_dir() / "mine.yaml").unlink()
    assert gather_records(study).read_text() == before


def test_a_reference_that_was_attacked_with_a_replaced_surrogate_is_outdated():
    copy_model("cross_entropy-digits", "other")
    attacks = {"attacks": ["transfer:other:steps=1"], "eps": ["8/255"], "n_examples": 4}
    study = study_of(f"{__name__}:Dark", evaluations={"attacks": attacks})
    run_study(study)
    replace_model("other", "knn_ib-digits")
    assert [cell["status"] for cell in report_cells(study)] == ["outdated"]


UNCHANGED, DARKENED = "images", "(images - epsilon).clamp(0)"


@pytest.fixture
def write_attack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(result: str) -> None:
        """Let the function my_attacks:hit give this result, as in a new process."""
        monkeypatch.delitem(sys.modules, "my_attacks", raising=False)
        linecache.clearcache()
        text = f"def hit(model, images, labels, *, epsilon, seed):\n    return {result}\n"
        (tmp_path / "my_attacks.py").write_text(text)

    return write


def test_an_attack_function_that_was_changed_is_run_again(write_attack):
    def run_with(result: str, *, eps: list[str]) -> list[tuple[float, float]]:
        write_attack(result)
        attacks = {"attacks": ["my_attacks:hit"], "eps": eps, "n_examples": 40}
        study = study_of(f"{__name__}:Dark", evaluations={"attacks": attacks})
        run_study(study)
        content = json.loads((cell_folder(study, f"{__name__}-Dark") / RESULTS_FILE).read_text())
        return [(each["epsilon"], each["attacked_correct"]) for each in content["decoders"]["head"]["attacks"]]

    before = dict(run_with(UNCHANGED, eps=["64/255"]))
    after = dict(run_with(DARKENED, eps=["64/255", "32/255"]))
    assert set(after) == {64 / 255, 32 / 255}
    assert after[64 / 255] != before[64 / 255]


ATTACKED = {"attacks": ["my_attacks:hit"], "eps": ["64/255"], "n_examples": 4}


@pytest.mark.parametrize("evaluations", [{"attacks": ATTACKED}, {"audit": ATTACKED}], ids=["attacks", "audit"])
def test_a_finished_cell_is_measured_again_if_an_attack_function_was_changed(write_attack, monkeypatch, evaluations):
    measured, measure = [], run_module.measure
    monkeypatch.setattr(run_module, "measure", lambda *a, **k: measured.append(a) or measure(*a, **k))
    study = study_of(f"{__name__}:Dark", evaluations=evaluations)
    for result, times in ((UNCHANGED, 1), (UNCHANGED, 1), (DARKENED, 2), (DARKENED, 2)):
        write_attack(result)
        assert [state.status for state in run_study(study)] == ["done"]
        assert len(measured) == times


def test_an_earlier_result_of_an_attack_function_does_not_count_if_it_is_not_asked_for_any_more(
    write_attack, monkeypatch
):
    write_attack(UNCHANGED)
    for eps in ("64/255", "32/255"):
        study = study_of(f"{__name__}:Dark", evaluations={"audit": {**ATTACKED, "eps": eps}})
        run_study(study)
    write_attack(DARKENED)
    run_study(study)
    monkeypatch.setattr(run_module, "measure", None)
    assert [state.status for state in run_study(study)] == ["done"], "it is not measured again and again"


def test_an_interrupted_attack_function_starts_anew_if_it_was_changed(write_attack, monkeypatch):
    study = study_of(f"{__name__}:Dark", evaluations={"attacks": ATTACKED})
    monkeypatch.setattr(measure_module, "BATCH", 2)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    write_attack(UNCHANGED)
    with monkeypatch.context() as patched:
        patched.setattr(measure_module, "_share_of", lambda *_: interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_study(study)
    write_attack(DARKENED)
    assert [(state.status, state.error) for state in run_study(study)] == [("done", "")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:40], ""),
        (lambda text: "[]", "not a mapping"),
        (lambda text: '{"model": "x"}', "'weights' is missing"),
        (lambda text: text.replace('"card"', '"cart"'), "'card' is missing"),
    ],
)
def test_damaged_results_are_one_sentence(change, said):
    study = study_of(f"{__name__}:Dark", evaluations={"sweep": SMALL["sweep"]})
    run_study(study)
    path = cell_folder(study, f"{__name__}-Dark") / RESULTS_FILE
    path.write_text(change(path.read_text()))
    for command in (gather_records, report_cells, study_states, run_study):
        with pytest.raises(IbrobustError, match=rf"results\.json' are damaged \(.*{said}.*\): remove the file"):
            command(study)


@pytest.mark.parametrize("older", [{}, {"attack_version": SAME_WORST_CASE - 1}])
def test_a_worst_case_attack_of_an_older_version_is_made_again(older):
    attacks = {"attacks": ["worst_case", "PGD:steps=1"], "eps": ["16/255"], "n_examples": 4}
    study = study_of(f"{__name__}:Dark", evaluations={"attacks": attacks})
    run_study(study)
    path = cell_folder(study, f"{__name__}-Dark") / RESULTS_FILE
    stored = json.loads(path.read_text())
    part = stored["decoders"]["head"]
    before = {each["attack"]: each for each in part["attacks"]}
    assert before["WorstCase"]["attack_version"] == WORST_CASE_VERSION
    worst = {key: value for key, value in before["WorstCase"].items() if key != "attack_version"}
    changed = {"attacked_correct": "1111", "accuracy_under_attack": 1.0}
    part["attacks"] = [{**worst, **older, **changed}, {**before["PGD:steps=1"], **changed}]
    path.write_text(json.dumps(stored))
    run_study(study)
    after = {each["attack"]: each for each in json.loads(path.read_text())["decoders"]["head"]["attacks"]}
    # PGD has no version, so what was stored of it stays.
    assert after == {**before, "PGD:steps=1": {**before["PGD:steps=1"], **changed}}


def test_an_audit_by_older_rules_that_is_not_asked_for_any_more_is_removed_once(monkeypatch):
    def study_at(epsilon: str) -> Study:
        return study_of(f"{__name__}:Dark", evaluations={"audit": {"eps": epsilon, "n_examples": 4}})

    run_study(study_at("16/255"))
    study = study_at("8/255")
    run_study(study)
    path = cell_folder(study, f"{__name__}-Dark") / RESULTS_FILE
    stored = json.loads(path.read_text())
    old, new = stored["decoders"]["head"]["audits"]
    stored["decoders"]["head"]["audits"] = [{**old, "audit_version": 0}, new]
    path.write_text(json.dumps(stored))
    run_study(study)
    assert json.loads(path.read_text())["decoders"]["head"]["audits"] == [new]
    monkeypatch.setattr(run_module, "measure", None)
    assert [state.status for state in run_study(study)] == ["done"], "it is not measured again and again"


SMALL = {"sweep": {"eps": ["8/255"], "n_examples": 20}, "attacks": {**EVALUATIONS["attacks"], "n_examples": 10}}


def test_results_go_into_the_cards_of_ones_own_models_and_into_shipped_ones_on_request(tmp_path, monkeypatch):
    copy_model("cross_entropy-digits", "mine")
    study = study_of("mine", "cross_entropy-digits", evaluations=SMALL)
    run_study(study)
    (mine, _), (shipped, _) = study_results(study)
    assert write_cards(study) == (["mine"], ["cross_entropy-digits"])
    assert model_card("mine").evaluations == card_evaluations(mine)
    monkeypatch.setattr("ibrobust.study.write_cards.zoo_dir", lambda: tmp_path)
    assert write_cards(study, shipped=True) == (["cross_entropy-digits"], ["mine"])
    assert read_card(tmp_path / "cross_entropy-digits.yaml").evaluations == card_evaluations(shipped)
    # What a card holds has the same rows as the results, without the images.
    found = list(rows_of(results_of_card(model_card("mine"))))
    # PGD does not search long, so the worst case over it counts in the study alone.
    expected = [row for row in rows_of(mine) if row["quantity"] != "worst_case_accuracy"]
    assert sorted(found, key=str) == sorted(expected, key=str)
    register_other_weights("mine")
    assert write_cards(study) == ([], ["mine", "cross_entropy-digits"])


def test_images_of_a_split_have_one_name_in_a_study_and_in_commands(tmp_path):
    copy_model("cross_entropy-digits", "mine")
    digits, file = load_dataset("digits"), tmp_path / "halves.npz"
    halves = {"train": digits.train, "test": digits.test.subset(40), "val": digits.test.subset(30)}
    arrays = {f"{half}_images": images.images.numpy() for half, images in halves.items()}
    np.savez(file, **arrays, **{f"{half}_labels": images.labels.numpy() for half, images in halves.items()})
    wanted = {**SMALL, "audit": {"eps": "8/255", "n_examples": 8, "decoders": ["head"]}}
    study = study_of("mine", dataset=f"{file}:test=val", evaluations=wanted)
    run_study(study)
    write_cards(study)
    stored = model_card("mine").evaluations
    val = load_dataset(f"{file}:test=val")
    assert {record["dataset"] for records in stored.values() for record in records.values()} == {
        "images of split val of halves"
    }
    for key in stored:
        kind = key.partition(" ")[0]
        record = {field: value for field, value in stored[key]["head"].items() if not field.startswith("dataset")}
        add_evaluation("mine", kind, "head", record, val)  # as commands do
    assert model_card("mine").evaluations == stored
    assert {key.partition(" on ")[2] for key in stored} == {f"images of split val of halves {val.fingerprint[:12]}"}
    (cell,) = report_cells(study)
    assert cell["examples"]["images"] == "images of split val"


def test_a_result_that_another_process_stores_meanwhile_stays_in_the_card(monkeypatch):
    copy_model("cross_entropy-digits", "mine")
    study = study_of("mine", evaluations={"sweep": SMALL["sweep"]})
    run_study(study)
    ((mine, _),) = study_results(study)
    read_before = model_card("mine")

    add_evaluation("mine", "fgsm", "another", {"stored": "meanwhile"}, load_dataset("digits"))
    monkeypatch.setattr("ibrobust.study.write_cards.model_card", lambda name: read_before)
    write_cards(study)
    decoders = model_card("mine").evaluations["fgsm"]
    assert decoders["another"]["stored"] == "meanwhile"
    assert decoders["head"] == card_evaluations(mine)["fgsm"]["head"]


def register_other_weights(name: str) -> None:
    path = models_dir() / f"{name}.yaml"
    card = read_card(path)
    weights = card.weights.model_copy(update={"sha256": "0" * 64})
    path.write_text(card.model_copy(update={"weights": weights}).to_text())


def test_some_adversarial_images_are_kept_for_the_report():
    data, model = load_dataset("digits"), load_model("cross_entropy-digits")
    found = adversarial_examples(model, data, epsilon=16 / 255, seed=0)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["image"])))).astype(float)
    height, width = data.test.images.shape[-2:]
    assert sheet.shape == (3 * height, COUNT * width, 3)
    images, perturbations, adversarial = (sheet[row * height : (row + 1) * height] for row in range(3))
    chosen = data.test.subset(COUNT)
    assert np.array_equal(images, np.concatenate([image.permute(1, 2, 0).numpy() for image in chosen.images], axis=1))
    change = adversarial - images
    assert 15 <= np.abs(change).max() <= 16
    assert np.abs((perturbations / 255 - 0.5) * 32 - change).max() <= 1, "black is -epsilon, white is epsilon"
    points = torch.from_numpy(adversarial / 255).float().reshape(height, COUNT, width, 3).permute(1, 3, 0, 2)
    assert found["attacked"] == [data.class_names[label] for label in model(points).argmax(dim=1).tolist()]
    assert found["labels"] == [data.class_names[label] for label in chosen.labels.tolist()]
    assert found["labels"] != found["attacked"]


def test_the_adversarial_images_of_a_report_have_the_largest_epsilon_in_linf():
    attacks = ["FGSM", {"attack": "FGSM", "eps": ["16/255"]}, {"attack": "PGD:steps=1,norm=L2", "eps": [1.0]}]
    wanted = {"attacks": attacks, "eps": ["8/255"], "n_examples": 4}
    study = study_of(f"{__name__}:Dark", evaluations={"attacks": wanted})
    run_study(study)
    (cell,) = report_cells(study)
    assert cell["examples"]["epsilon"] == 16 / 255


def test_attacks_that_are_all_in_l2_may_share_a_large_epsilon():
    wanted = {"attacks": ["PGD:steps=1,norm=L2"], "eps": [2.0], "n_examples": 4}
    study = study_of(f"{__name__}:Dark", evaluations={"attacks": wanted})
    assert [state.status for state in run_study(study)] == ["done"]
    with pytest.raises(IbrobustError, match=r"epsilon 2 is outside \[0, 1\]"):
        run_study(study_of(f"{__name__}:Dark", evaluations={"attacks": {**wanted, "attacks": ["FGSM"]}}))


def test_a_worst_case_starts_from_the_surrogate_that_the_study_names(monkeypatch):
    attacks = {"attacks": ["worst_case:surrogate=cross_entropy-digits"], "eps": ["16/255"], "n_examples": 4}
    runs = []
    monkeypatch.setattr(measure_module, "run_attacks", lambda *a, **k: runs.append(k["attacks"][0]) or [])
    study = study_of(
        "cross_entropy-digits", "knn_ib-digits", evaluations={"attacks": {**attacks, "decoders": ["default"]}}
    )
    assert [state.status for state in run_study(study)] == ["done", "done"]
    own, other = runs
    assert own.label == "WorstCase", "a model is no surrogate of itself"
    assert other.label == "WorstCase:surrogate=cross_entropy-digits"
    other.check_fit(channels=3, num_classes=10)  # its surrogate is loaded
    with pytest.raises(IbrobustError, match="nobody"):
        prepare_study(
            study_of("knn_ib-digits", evaluations={"attacks": {**attacks, "attacks": ["worst_case:surrogate=nobody"]}})
        )


def test_attacks_of_a_study_transfer_from_other_models_and_give_curves():
    attacks = {
        "attacks": ["transfer:cross_entropy-digits:steps=2", "foolbox:L2DeepFoolAttack:steps=5"],
        "eps": ["8/255", "0.5"],
        "n_examples": 8,
        "decoders": ["default"],
    }
    study = study_of("cross_entropy-digits", "knn_ib-digits", evaluations={"attacks": attacks})
    assert [state.status for state in run_study(study)] == ["done", "done"]
    records = pd.read_csv(study.folder / "records.csv").dropna(subset=["attack"])
    found = set(records[["model", "attack"]].itertuples(index=False, name=None))
    attacked = {(model, attack) for model, attack in found if not attack.startswith("worst case")}
    assert attacked == {
        ("cross_entropy-digits", "foolbox:L2DeepFoolAttack:steps=5"),  # a model is no surrogate of itself
        ("knn_ib-digits", "foolbox:L2DeepFoolAttack:steps=5"),
        ("knn_ib-digits", "transfer:cross_entropy-digits:steps=2"),
    }


def test_patterns_are_the_models_that_there_are(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    fields = {"name": "mine", "base": {"dataset": "digits"}, "models": ["*-digits", "cross_entropy-digits"]}
    file.write_text(yaml.safe_dump(fields))
    assert load_study(str(file)).models == ("cross_entropy-digits", "knn_ib-digits")
    file.write_text(yaml.safe_dump({**fields, "models": ["nobody*"]}))
    with pytest.raises(IbrobustError, match=r"called like 'nobody\*'"):
        load_study(str(file))


def test_models_and_grids_stand_side_by_side(make_study):
    study = make_study({"beta": [0.1]}, models=["cross_entropy-digits"], evaluations={"sweep": EVALUATIONS["sweep"]})
    assert [state.status for state in run_study(study)] == ["done", "done"]
    table = pd.read_csv(study.folder / "records.csv")
    assert list(dict.fromkeys(table.model)) == ["tiny-knn_ib", "cross_entropy-digits"]


@pytest.mark.parametrize("difference", ["learning rate", "images"])
def test_a_trained_cell_is_told_apart_from_a_stored_model_of_the_same_columns(make_study, difference):
    card = model_card("cross_entropy-digits")
    recipe = card.recipe.model_dump(mode="json", exclude_defaults=True)
    base = {key: value for key, value in recipe.items() if key != "dataset"}
    changed = {"learning_rate": [0.5]} if difference == "learning rate" else {}
    study = make_study({"seed": [7], **changed}, models=["cross_entropy-digits"], base=base)
    trained, given = expand(study)
    images = card.dataset.model_copy(update={"name": "others"}) if difference == "images" else card.dataset
    known = {trained.name: card.model_copy(update={"recipe": trained.recipe, "dataset": images}), given.name: card}
    columns = cell_columns(study, known)
    one, other = ({key: columns[cell.name][key] for key in COMPARED} for cell in (trained, given))
    assert one == other
    assert difference in columns[trained.name]["setting"]
    assert difference in columns[given.name]["setting"]
    assert columns[trained.name]["setting"] != columns[given.name]["setting"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"models": ["nobody"]}, "nobody"),
        ({"models": ["timm:resnet18"], "base": {}}, "no data set for 'timm:resnet18'"),
        ({"models": ["cross_entropy-w16-s0"], "base": {"dataset": "digits"}}, "classes of cifar10-jpeg"),
        ({"evaluations": {"sweep": {"eps": [0.1], "decoders": ["resfc"]}}}, "'sweep' is for resfc"),
        ({"evaluations": {"train_accuracy": True}}, "models are not trained"),
    ],
)
def test_a_model_that_could_not_be_measured_is_named_first(fields, said):
    study = Study.model_validate(
        {"name": "given", "models": ["knn_ib-digits"], "base": {"dataset": "digits"}, **fields}
    )
    with pytest.raises(IbrobustError, match=said):
        run_study(study)
    assert not study.folder.exists()


def test_models_that_their_columns_do_not_tell_apart_are_told_apart_by_their_recipes():
    names = ["knn_ib-k50-w16-s0", "knn_ib-k50-w16-s1", "knn_ib-from_start-w16-s0", "soft_ib-w16-s0"]
    found = settings_of({**{name: model_card(name).recipe for name in names}, "timm:resnet18": None})
    assert found["soft_ib-w16-s0"] == ""
    assert found["timm:resnet18"] == "timm:resnet18"
    assert found[names[0]] == found[names[1]] != found[names[2]]
    assert "soft share 0.75" in found[names[0]]


def test_models_of_other_seeds_are_one_line_only_if_all_else_is_equal():
    one = model_card("soft_ib-w16-s0").recipe
    other_rate = one.model_copy(update={"seed": 1, "learning_rate": 0.5})
    assert settings_of({"a": one, "b": other_rate}) == {"a": "learning rate 0.01", "b": "learning rate 0.5"}
    other_seed = one.model_copy(update={"seed": 1})
    assert settings_of({"a": one, "b": other_seed}, {"a": {"images": "x"}, "b": {"images": "x"}}) == {"a": "", "b": ""}
    for what in ("images", "architecture"):
        found = settings_of({"a": one, "b": other_seed}, {"a": {what: "x"}, "b": {what: "y"}})
        assert found == {"a": f"{what} x", "b": f"{what} y"}
    # A field that the objective does not use makes no difference.
    plain = model_card("cross_entropy-w16-s0").recipe
    assert set(settings_of({"a": plain, "b": plain.model_copy(update={"seed": 1, "memory_size": 7})}).values()) == {""}


def test_the_states_of_models_have_no_epochs():
    study = study_of("knn_ib-digits")
    prepare_study(study)
    run_study(study)
    assert [(state.status, state.epochs) for state in study_states(study)] == [("done", 0)]


def test_a_card_with_several_worst_cases_in_one_place_has_the_smallest_in_the_records():
    place = {"norm": "Linf", "epsilon": 8 / 255, "total": 10, "clean_accuracy": 0.9}
    results = [
        {**place, "attack": attack, "accuracy_under_attack": left, "robust_accuracy": left, "attack_version": 99}
        for attack, left in (("AutoAttack", 0.6), ("WorstCase", 0.3), ("worst case of WorstCase", 0.3))
    ]
    rows = [row for row in rows_of({"decoders": {"head": {"attacks": results}}}) if "worst_case" in row["quantity"]]
    assert [row["value"] for row in rows] == [0.3]
