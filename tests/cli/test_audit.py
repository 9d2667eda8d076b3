from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ibrobust.cli.attacking import choose_models, choose_surrogate
from ibrobust.data import Dataset
from ibrobust.registry import add_evaluation, model_card

TRAIN = ["train", "--dataset", "digits", "--width", "2", "--latent-dim", "8", "--epochs", "1", "--batch-size", "200"]


@pytest.fixture
def baseline(run) -> str:
    assert run(*TRAIN, "--objective", "cross_entropy", "--name", "baseline").returncode == 0
    return "baseline"


def test_an_audit_prints_every_check_and_stores_its_verdict(run, mine, baseline, tmp_path):
    options = ["--eps", "8/255", "--quick", "--n-examples", "32", "--surrogate", baseline, "--json", "audit.json"]
    finished = run("audit", mine, *options)
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "elsewhere" / "audit.json").read_text())["audits"]["head"]
    for check in report["checks"]:
        assert check["name"] in finished.stdout
    stored = model_card(mine).evaluations["audit 0.0313725"]["head"]
    answers = ("robustness", "gradient", "verdict", "headline")
    assert [stored[key] for key in answers] == [report[key] for key in answers]
    assert finished.stdout.strip().startswith(report["robustness"])
    assert {check["name"]: check["passed"] for check in stored["checks"]}["transfer_not_stronger"] is not None


def cifar_like(digits: Dataset, *, size: int = 32) -> Dataset:
    """Digits under CIFAR-10's classes, at size x size."""
    card = model_card("cross_entropy-w16-s0")
    train, test = (replace(split, images=split.images[:, :, :size, :size]) for split in (digits.train, digits.test))
    return replace(digits, class_names=card.dataset.class_names, train=train, test=test)


def test_the_default_surrogate_ships_with_ibrobust_whatever_the_user_has(baseline, digits):
    assert model_card(baseline).recipe.objective == "cross_entropy"
    assert choose_surrogate(None, "mine", digits).name == "cross_entropy-digits"
    assert choose_surrogate(None, "cross_entropy-digits", digits) is None  # no other ships of these classes
    assert choose_surrogate(None, "mine", replace(digits, class_names=tuple("abcdefghij"))) is None
    assert choose_surrogate(None, "mine", cifar_like(digits)).name == "cross_entropy-w16-s0"
    assert choose_surrogate(None, "cross_entropy-w16-s0", cifar_like(digits)).name == "cross_entropy-w16-s1"


def test_there_is_no_default_surrogate_for_images_of_another_size(digits):
    assert choose_surrogate(None, "mine", cifar_like(digits, size=16)) is None


def test_an_attack_table_shows_the_stored_verdict(run, mine, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run("audit", mine, "--quick", "--n-examples", "16").returncode == 0
    stored = model_card(mine).evaluations["audit 0.0313725"]["head"]["verdict"]
    row = next(line for line in run("attack", mine, "--n-examples", "16").stdout.splitlines() if "mine" in line)
    assert row.strip().startswith(f"{stored} at 8/255")


def test_a_verdict_of_an_older_audit_is_shown_as_that(run, mine, digits, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    record = {"verdict": "sound", "epsilon": 8 / 255}
    add_evaluation(mine, "audit", "head", record, digits)
    row = next(line for line in run("attack", mine, "--n-examples", "16").stdout.splitlines() if "mine" in line)
    assert row.strip().startswith("older audit: sound at 8/255")


@pytest.mark.parametrize("claim", ["0", "-0.1", "1.5", "nan"])
def test_a_claim_that_is_no_accuracy_is_refused(run, mine, claim):
    finished = run("audit", mine, "--claim", claim)
    assert finished.returncode == 2
    assert "not a robust accuracy" in finished.stderr


def test_a_module_from_elsewhere_is_audited(run, tmp_path):
    (tmp_path / "elsewhere" / "their_models.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
    )
    finished = run("audit", "their_models:build", "--dataset", "digits", "--quick", "--n-examples", "16")
    assert finished.returncode == 0, finished.stderr
    assert "their_models:build" in finished.stdout


def test_an_epsilon_of_zero_is_refused(run, mine):
    finished = run("audit", mine, "--eps", "0")
    assert finished.returncode == 2
    assert "epsilon is 0" in finished.stderr


def test_own_attacks_count_and_are_named(run, mine, tmp_path):
    (tmp_path / "elsewhere" / "own_attack.py").write_text(
        "def darken(model, images, labels, *, epsilon, seed):\n    return (images - epsilon).clamp(0, 1)\n"
    )
    options = ["--quick", "--n-examples", "16", "--surrogate", "none", "--json", "audit.json"]
    finished = run("audit", mine, *options, "--attack", "own_attack:darken", "--attack", "PGD:steps=2")
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "elsewhere" / "audit.json").read_text())["audits"]["head"]
    assert [label for label, _ in report["attacks"]] == ["own_attack:darken", "PGD:steps=2"]
    assert "own_attack:darken broke" in " ".join(finished.stdout.split())
    refused = run("audit", mine, *options, "--attack", "PGD:norm=L2")
    assert refused.returncode == 2
    assert "the audit is in Linf" in refused.stderr


def test_a_target_knows_the_audits_of_all_decoders_on_its_images(digits):
    (target,) = choose_models(["knn_ib-digits"], ["gaussian_mixture"], digits, "digits")
    stored = model_card("knn_ib-digits").evaluations["audit 0.0313725"]
    assert len(stored) == 2
    assert {(audit.decoder, audit.epsilon, audit.verdict.text) for audit in target.known.audits} == {
        (decoder, 8 / 255, audit["verdict"]) for decoder, audit in stored.items()
    }
    others = replace(digits, test=replace(digits.test, images=255 - digits.test.images))
    (other,) = choose_models(["knn_ib-digits"], ["logistic"], others, "digits")
    assert (other.known.audited, other.known.audits) == (None, ())
