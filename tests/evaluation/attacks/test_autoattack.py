"""AutoAttack in `run_attacks`: interrupted and resumed, with its warnings; against pyautoattack in test_run.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from brightness import NoisyPixel
from torch import Tensor, nn

from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.attacks.run import run_attacks

SHORT = "AutoAttack:n_iter=3,n_queries=10"
OPTIONS: dict[str, Any] = {"attacks": ["PGD:steps=1", SHORT], "epsilons": [0.02, 0.05], "batch_size": 5, "seed": 4}


class Linear(nn.Module):
    """Ten classes of small images, with noise in the logits on request; a call after the last one interrupts."""

    def __init__(self, *, noise: float = 0.0, calls: int = -1) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(10, 192, generator=torch.Generator().manual_seed(0)) / 8)
        self.noise, self.calls = noise, calls

    def forward(self, images: Tensor) -> Tensor:
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        logits = images.flatten(1) @ self.weights.T
        return logits + self.noise * torch.randn_like(logits)


def data() -> tuple[Tensor, Tensor]:
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return images, Linear()(images).argmax(dim=1)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_resumed_run_gives_the_same_records(share: float, noise: float, tmp_path: Path) -> None:
    path, counted = tmp_path / "state.jsonl", Linear(noise=noise)
    expected = run_attacks(counted, *data(), **OPTIONS)
    assert any(0 < sum(result.robust_correct) < sum(result.clean_correct) for result in expected[2:])
    with pytest.raises(KeyboardInterrupt):
        run_attacks(Linear(noise=noise, calls=round(-share * counted.calls)), *data(), **OPTIONS, state_path=path)
    assert run_attacks(Linear(noise=noise), *data(), **OPTIONS, state_path=path) == expected
    lines = path.read_bytes()
    # From the file alone: one call for the number of classes, one by which the state recognises the model.
    assert run_attacks(Linear(noise=noise, calls=2), *data(), **OPTIONS, state_path=path) == expected
    assert path.read_bytes() == lines


def test_the_result_does_not_depend_on_other_attacks_and_epsilons_of_the_run() -> None:
    alone = run_attacks(Linear(), *data(), **{**OPTIONS, "attacks": [SHORT], "epsilons": [0.05]})
    assert run_attacks(Linear(), *data(), **OPTIONS)[3] == alone[0]


def test_warnings_are_in_the_record() -> None:
    (result,) = run_attacks(
        nn.Sequential(Linear(), nn.Softmax(dim=1)), *data(), attacks=[SHORT], epsilons=[0.02], seed=0
    )
    assert any("probability distribution" in flag for flag in result.flags)
    assert AttackResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    (plain,) = run_attacks(Linear(), *data(), attacks=[SHORT], epsilons=[0.02])
    assert plain.flags == ()


class Rounded(Linear):
    """The same on images of 8 bits: the gradient is zero."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * 255).round() / 255)


def test_a_warning_of_several_batches_is_told_once() -> None:
    """Batches of five images give the same sentence."""
    (result,) = run_attacks(Rounded(), *data(), attacks=SHORT, epsilons=0.02, batch_size=5)
    assert [flag.partition(" points")[0] for flag in result.flags] == ["there are 5", "there are 1"]


@pytest.mark.parametrize(("norm", "is_skipped"), [("L2", True), ("Linf", False)])
def test_a_part_that_the_size_of_the_images_rules_out_is_a_warning(norm: str, is_skipped: bool) -> None:
    (result,) = run_attacks(Linear(), *data(), attacks=f"{SHORT},norm={norm}", epsilons=0.01)
    assert any("Square was skipped" in flag for flag in result.flags) is is_skipped


def test_an_image_that_is_wrong_without_the_attack_stays_wrong_on_another_draw() -> None:
    """About 20 of 40 images are wrong on the first draw, and half of these would be right on a second one."""
    images, labels = torch.full((40, 1, 1, 1), 0.5), torch.zeros(40, dtype=torch.long)
    attack = "AutoAttack:version=rand,n_iter=1,n_queries=1"
    (result,) = run_attacks(NoisyPixel(1.0), images, labels, attacks=attack, epsilons=0.01)
    assert result.attacked_correct == result.robust_correct
