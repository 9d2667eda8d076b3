"""One model has one result under AutoAttack, wherever it is started from."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import ibrobust.integrations.robustbench.run_benchmark as rb
from ibrobust.cli.attack import attack_command
from ibrobust.cli.benchmark import benchmark
from ibrobust.cli.main import app
from ibrobust.data import load_dataset, to_unit_range
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.integrations.robustbench.autoattack_module import AutoAttack

SHORT = "AutoAttack:n_iter=5,n_queries=20"
EPSILON, SEED, BATCH_SIZE = 0.08, 3, 7


class Short(AutoAttack):
    """With the few steps of SHORT; remembers the last one that was made."""

    last: Short | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for attack in (self.apgd, self.apgd_targeted, self.fab):
            attack.n_iter = 5
        self.square.n_queries = 20
        type(self).last = self


class Noisy(nn.Module):
    """The same model with noise of its own in the logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits + 0.1 * torch.randn_like(logits)


class WithoutFiniteGradient(nn.Module):
    """The same logits; the gradient is NaN if the middle of the image is dark."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        middle = images[:, :1, 16, 16]
        root = torch.where(middle < 0.2, middle - middle, 1.0).sqrt()  # of 0, with a gradient of infinity times 0
        return self.model(images) + root - root.detach()


@pytest.mark.parametrize("kind", [lambda model: model, Noisy, WithoutFiniteGradient])
def test_three_entrances_give_the_same_result_for_every_image(
    kind: Any, tiny_model: nn.Module, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kind(tiny_model).eval()
    test = load_dataset(str(digits_folder)).test.subset(20)
    found: list[Tensor] = []
    options = {"epsilons": [EPSILON], "batch_size": BATCH_SIZE, "seed": SEED}
    (result,) = run_attacks(
        model, test.images, test.labels, attacks=[SHORT], on_images=lambda _, images: found.append(images), **options
    )
    assert 0 < sum(result.robust_correct) < sum(result.clean_correct)

    adversary = Short(model, eps=EPSILON, seed=SEED, verbose=False, device="cpu")
    images = adversary.run_standard_evaluation(to_unit_range(test.images), test.labels, bs=BATCH_SIZE)
    assert torch.equal(images, torch.cat(found))
    assert tuple(adversary.outcome.robust_correct.tolist()) == result.robust_correct
    assert tuple(adversary.flags) == result.flags

    monkeypatch.setattr(rb, "AutoAttack", Short)
    benchmarked = rb.benchmark(
        model, eps=EPSILON, n_examples=20, data_dir=digits_folder, batch_size=BATCH_SIZE, seed=SEED
    )
    assert tuple(Short.last.outcome.robust_correct.tolist()) == result.robust_correct
    assert torch.equal(Short.last.outcome.adversarial, images)
    assert benchmarked.robust_correct == sum(result.robust_correct)
    assert benchmarked.clean_correct == sum(result.clean_correct)
    assert benchmarked.flags == result.flags


def test_both_commands_give_the_same_number(registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the seed and the batch size that each command has by default; 40 images do not fill one."""
    defaults = [signature(command).parameters["batch_size"].default for command in (attack_command, benchmark)]
    assert defaults[0] == defaults[1] >= 40
    monkeypatch.setattr(rb, "AutoAttack", Short)
    attacked, benchmarked = tmp_path / "attack.json", tmp_path / "benchmark.json"
    shared = [registered, "--eps", "0.004", "--n-examples", "40", "--json"]
    for command in (["attack", *shared, str(attacked), "--attack", SHORT], ["benchmark", *shared, str(benchmarked)]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    record = json.loads(attacked.read_text())["attacks"][0]
    expected = json.loads(benchmarked.read_text())
    assert 0 < record["robust_accuracy"] < record["clean_accuracy"]
    assert record["robust_accuracy"] == expected["robust_accuracy"]
    assert record["clean_accuracy"] == expected["clean_accuracy"]
    assert record.get("flags", []) == expected["flags"]


def test_the_command_prints_the_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probabilities.py").write_text(
        "from torch import nn\n"
        "def model():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.Softmax(dim=1))\n"
    )
    monkeypatch.chdir(tmp_path)
    shared = ["--dataset", "digits", "--n-examples", "8", "--eps", "8/255", "--attack", SHORT]
    done = CliRunner().invoke(app, ["attack", "probabilities:model", *shared])
    assert done.exit_code == 0, done.output
    assert "AutoAttack warns about probabilities:model" in done.stderr
    assert "probability distribution" in done.stderr
