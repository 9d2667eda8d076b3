"""`ibrobust attack --attack` with attacks of every kind: functions, foolbox's, those of other packages, transfer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ibrobust.evaluation.attacks.text_form import ENTRY_POINT_GROUP
from ibrobust.home import models_dir
from ibrobust.registry import copy_model, model_card

MODULE = """
import ibrobust

def darken(model, images, labels, *, epsilon, seed, share=1.0):
    return (images - share * epsilon).clamp(0, 1)

def too_far(model, images, labels, *, epsilon, seed):
    return (images + 2 * epsilon).clamp(0, 1)

def odd(model, images):
    return images

class Twice(ibrobust.PGD):
    restarts: int = 2
"""


@pytest.fixture
def attack(run, mine, monkeypatch, tmp_path):
    """Attack the model `mine`; return what was printed, and the records without the worst case."""
    monkeypatch.delitem(sys.modules, "my_attacks", raising=False)
    (tmp_path / "elsewhere" / "my_attacks.py").write_text(MODULE)

    def call(*attacks, eps="2/255,8/255"):
        given = [part for name in attacks for part in ("--attack", name)]
        finished = run("attack", mine, "--eps", eps, "--n-examples", "20", *given, "--json", "results.json")
        file = tmp_path / "elsewhere" / "results.json"
        records = json.loads(file.read_text())["attacks"] if finished.returncode == 0 else []
        return finished, [record for record in records if not record["attack"].startswith("worst case")]

    return call


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package with two attacks and one that cannot be loaded."""
    folder = tmp_path / "site"
    info = folder / "plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "a_plugin.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINT_GROUP}]\ndarkness = a_plugin:darken\nTwice = a_plugin:Twice\nbroken = a_plugin:missing\n"
    )
    monkeypatch.delitem(sys.modules, "a_plugin", raising=False)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    "name",
    [
        "my_attacks:darken",
        "my_attacks:darken:share=0.5",
        "foolbox:LinfPGD:steps=2,abs_stepsize=0.01",
        "PGD:steps=2,targets=all",
        "transfer:knn_ib-digits:steps=2",
    ],
)
def test_an_attack_of_any_kind_is_in_the_table_and_in_the_records(attack, name):
    finished, records = attack(name, "FGSM")
    assert finished.returncode == 0, finished.stderr
    assert name in "".join(finished.stdout.split())
    assert [(record["attack"], record["epsilon"]) for record in records[:2]] == [(name, 2 / 255), (name, 8 / 255)]
    assert "worst case" in finished.stdout


def test_an_attack_that_searches_for_the_smallest_perturbation_gives_its_curve(attack):
    finished, records = attack("foolbox:L2DeepFoolAttack:steps=10", eps="0.05,0.5,3")
    assert finished.returncode == 0, finished.stderr
    norms = records[0]["minimal_norm"]
    assert len(norms) == 20
    for record in records:
        assert record["minimal_norm"] == norms
        survivors = [norm is None or norm > record["epsilon"] + 1e-4 for norm in norms]
        assert record["attacked_correct"] == "".join("1" if survives else "0" for survives in survivors)


def test_small_radii_in_l2_are_noted(attack):
    finished, _ = attack("PGD:norm=L2,steps=1")
    assert "Note: 8/255 is very small in L2; usual radii are 0.25 to 1." in " ".join(finished.stderr.split())


def test_attacks_of_an_installed_package(attack, plugin):
    finished, records = attack("darkness:share=0.5", "Twice:steps=2")
    assert finished.returncode == 0, finished.stderr
    assert [record["attack"] for record in records[::2]] == ["darkness:share=0.5", "Twice:steps=2"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("darknes", "Unknown attack 'darknes': did you mean darkness"),
        ("xyz", "darkness of a_plugin, Twice of a_plugin"),
        ("broken", "The attack 'broken' (a_plugin:missing) cannot be imported (AttributeError"),
        ("Twice:step=2", "The attack Twice has no option 'step': did you mean steps"),
        ("my_attacks:odd", "cannot be called as attack(model, images, labels, *, epsilon, seed)"),
        ("my_attacks:too_far", "more than epsilon"),
        ("my_attacks:absent", "'my_attacks' has no 'absent'"),
        ("foolbox:LinfPDG", "foolbox has no attack 'LinfPDG': did you mean LinfPGD"),
        ("transfer:knn_ib-digit", "did you mean knn_ib-digits"),
        ("PGD:targets=third", "PGD has no targets 'third'"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence_and_exit_code_2(attack, plugin, name, message):
    finished, _ = attack(name)
    assert finished.returncode == 2
    assert message in " ".join(finished.stderr.split())
    assert "Traceback" not in finished.stderr


NOISY = """
import torch
from torch import nn

class Noisy(nn.Module):
    def forward(self, images):
        logits = images.flatten(1)[:, 300:310]
        return logits + 0.3 * torch.randn_like(logits)
"""


def test_attacks_that_judge_a_random_model_on_other_draws_have_no_worst_case(run, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "noisy", raising=False)
    (tmp_path / "elsewhere" / "noisy.py").write_text(NOISY)
    attacks = ("--attack", "FGSM", "--attack", "worst_case")
    finished = run(
        *("attack", "noisy:Noisy", "--dataset", "digits", "--eps", "0.01", "--n-examples", "40", *attacks),
        *("--json", "results.json"),
    )
    assert finished.returncode == 0
    assert "no worst case over the attacks" in " ".join(finished.stderr.split())
    records = json.loads((tmp_path / "elsewhere" / "results.json").read_text())["attacks"]
    assert [record["attack"] for record in records] == ["FGSM", "WorstCase"]


def test_a_default_model_that_cannot_be_loaded_costs_no_other_result(run):
    copy_model("cross_entropy-digits", "broken")
    (models_dir() / model_card("broken").weights.file).unlink()
    finished = run("attack", "--dataset", "digits", "--eps", "0.1", "--n-examples", "20", "--json", "found.json")
    assert finished.returncode == 0, finished.stderr
    assert "broken (head) was skipped: The weights" in " ".join(finished.stderr.split())
    assert "cross_entropy-digits" in Path("found.json").read_text()
    finished = run("attack", "broken", "--dataset", "digits", "--eps", "0.1", "--n-examples", "20")
    assert finished.returncode == 2


@pytest.mark.filterwarnings("default:The model's outputs are probabilities")
def test_a_warning_of_several_attacks_is_printed_once(run, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "soft_net", raising=False)
    layers = "nn.Flatten(), nn.Linear(3072, 10), nn.Softmax(1)"
    code = f"from torch import nn\ndef soft():\n    return nn.Sequential({layers})\n"
    (tmp_path / "elsewhere" / "soft_net.py").write_text(code)
    attacks = ("--attack", "PGD:steps=1", "--attack", "FGSM")
    finished = run("attack", "soft_net:soft", "--dataset", "digits", "--n-examples", "8", "--eps", "8/255", *attacks)
    assert finished.returncode == 0, finished.stderr
    warning = "The model's outputs are probabilities, not logits"
    assert f"PGD and FGSM warn about soft_net:soft (-): {warning}" in finished.stderr
    assert finished.stderr.count(warning) == 1
