"""`ibrobust benchmark`: what it prints, writes and stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ibrobust.cli.benchmark import benchmark
from ibrobust.errors import IbrobustError
from ibrobust.registry import add_evaluations, model_card


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(benchmark)
    return CliRunner().invoke(app, list(arguments))


def test_a_registered_model(registered: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = invoke(registered, "--eps", "8/255", "--n-examples", "8", "--json", str(file))
    assert done.exit_code == 0, done.output
    record = json.loads(file.read_text())
    assert f"{100 * record['clean_accuracy']:.1f}" in done.stdout
    assert "Accuracy under attack, %" in done.stdout
    assert "n = 8 test images of digits" in done.stdout
    assert list(model_card(registered).evaluations.values()) == [record]


def test_a_result_that_the_card_does_not_take_is_told(registered: str) -> None:
    options = (registered, "--eps", "1/255", "--n-examples", "8")
    assert "Not stored" not in invoke(*options).stderr
    ((key, record),) = model_card(registered).evaluations.items()
    add_evaluations(registered, {"robustbench": {record["decoder"]: {**record, "robust_correct": 0, "seed": 7}}})
    done = invoke(*options)
    assert "already holds 0 of 8 robust images with the seed 7" in " ".join(done.stderr.split())
    assert model_card(registered).evaluations[key]["seed"] == 7


def test_an_outside_model_is_not_looked_for_in_the_registry(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside.py").write_text(
        "from torch import nn\ndef model():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    done = invoke("outside:model", "--eps", "0.3", "--n-examples", "2", "--data-dir", str(digits_folder))
    assert done.exit_code == 0, done.output
    assert "outside:model" in done.stdout
    assert done.stderr.strip() == ""


def test_the_help_offers_only_models_that_are_accepted() -> None:
    assert "timm:NAME" not in invoke("--help").stdout  # they have 1,000 classes


def test_messages_are_not_appended_to_a_file_of_another_kind(tmp_path: Path) -> None:
    module = tmp_path / "net.py"
    module.write_text("here\n")
    done = invoke("no-such-model", "--log", str(module))
    assert "end the name" in str(done.exception)
    assert module.read_text() == "here\n"


def test_an_unknown_model_is_one_sentence() -> None:
    done = invoke("no-such-model")
    assert isinstance(done.exception, IbrobustError)
