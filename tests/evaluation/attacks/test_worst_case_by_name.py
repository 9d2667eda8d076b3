"""The worst-case attack through `run_attacks`: its surrogate, its warnings, and how it judges random models."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from brightness import NaNGradient
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.own_attacks import WorstCase
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.attacks.state import remove_state
from ibrobust.evaluation.worst_case_attack import WorstCaseResult, worst_case_attack
from ibrobust.evaluation.worst_case_attack import run as worst_case

pytestmark = pytest.mark.usefixtures("light_audits")

SHAPE = (3, 12, 12)


class Quantised(nn.Module):
    """A linear model behind rounded pixels: its gradient is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.Flatten(), nn.Linear(432, 10, bias=False))
        with torch.no_grad():
            self.linear[1].weight.copy_(torch.randn(10, 432, generator=torch.Generator().manual_seed(0)) / 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear((images * 50).round() / 50)


class Noisy(nn.Module):
    """Two logits, 1 apart whatever the image, with noise of standard deviation 1 on each."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]) + torch.randn(len(images), 2) + 0.0 * images.sum()


@pytest.fixture
def quantised() -> tuple[nn.Module, Tensor, Tensor]:
    model = Quantised()
    images = 0.3 + 0.4 * torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(1))
    return model, images, model(images).argmax(dim=1)


@pytest.fixture
def short_autoattack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worst_case, "autoattack", partial(worst_case.autoattack, n_iter=10, n_queries=100))


def test_its_warnings_are_in_the_result_and_in_its_record_also_after_a_resume(quantised, tmp_path):
    model, images, labels = quantised
    first, again = (
        run_attacks(model, images, labels, attacks="worst_case", epsilons=0.01, state_path=tmp_path / "state.jsonl")[0]
        for _ in range(2)
    )
    assert first.upper_bound
    assert "exactly zero at 20 of 20" in first.flags[0]
    assert first == again == AttackResult.from_dict(first.to_dict())
    assert first.summary()["flags"] == list(first.flags)


class _Kill(Exception):
    pass


class Smooth(Quantised):
    """The linear model without the rounding."""

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images)


class Shaky(Smooth):
    """The linear model with a little noise on each logit."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits + 0.01 * torch.randn_like(logits)


@pytest.mark.parametrize("kind", [Smooth, Shaky])
def test_a_run_that_is_killed_in_its_autoattack_goes_on_from_there_to_the_same_numbers(
    kind, quantised, tmp_path, short_autoattack
):
    model, images = kind(), quantised[1][:12]
    labels = Smooth()(images).argmax(dim=1)
    options = {"attacks": "worst_case:escalate=true", "epsilons": 0.01, "batch_size": 4}
    images_attacked = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal images_attacked
        images_attacked += len(output)

    model.register_forward_hook(count)
    seen: list[int] = []
    (whole,) = run_attacks(model, images, labels, **options, progress=lambda done, _: seen.append(done))
    assert 0 < whole.robust_accuracy < 1  # some images are broken before AutoAttack, and some reach it
    passes, last = images_attacked, seen[-4]  # AutoAttack's last batches
    assert seen == sorted(seen)

    def kill(done: int, _: int) -> None:
        if done >= last:
            raise _Kill

    path = tmp_path / "state.jsonl"
    with pytest.raises(_Kill):
        run_attacks(model, images, labels, **options, state_path=path, progress=kill)
    images_attacked = 0
    assert run_attacks(model, images, labels, **options, state_path=path) == [whole]
    assert images_attacked < passes / 2
    remove_state(path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_of_a_run_with_autoattack_is_refused(quantised, tmp_path, short_autoattack):
    options = {"attacks": "worst_case:escalate=true", "epsilons": 0.01, "state_path": tmp_path / "state.jsonl"}
    run_attacks(*quantised, **options)
    header, stages, *rest = (tmp_path / "state.jsonl").read_text().splitlines()
    fields = json.loads(stages)
    fields["broken in"][0] = len(fields["stages"])  # there is no such stage
    (tmp_path / "state.jsonl").write_text("\n".join([header, json.dumps(fields), *rest]) + "\n")
    with pytest.raises(IbrobustError, match=r"Line 2 of '.*state.jsonl' is damaged: remove it"):
        run_attacks(*quantised, **options)


def test_a_run_of_an_older_version_is_not_resumed(quantised, tmp_path, monkeypatch):
    options = {"attacks": "worst_case", "epsilons": 0.01, "state_path": tmp_path / "state.jsonl"}
    run_attacks(*quantised, **options)
    version = WorstCase.attack_version
    monkeypatch.setattr(WorstCase, "attack_version", version + 1)
    with pytest.raises(IbrobustError, match=rf"\(attack versions: \[{version}\] there and \[{version + 1}\] here\)"):
        run_attacks(*quantised, **options)


def test_it_is_the_worst_case_attack_on_all_images_whatever_the_batch_size(quantised):
    model, images, labels = quantised
    given: list[Tensor] = []
    (result,) = run_attacks(
        model, images, labels, attacks="worst_case", epsilons=0.01, batch_size=7, on_images=lambda _, x: given.append(x)
    )
    direct = worst_case_attack(model, images, labels, epsilon=0.01, batch_size=7)
    assert (result.attack, result.clean_correct, result.robust_correct, result.flags) == (
        "WorstCase",
        direct.clean_correct,
        direct.robust_correct,
        direct.warnings,
    )
    assert [len(part) for part in given] == [7, 7, 6]
    assert torch.equal(torch.cat(given), direct.adversarial)


def test_an_honest_model_s_result_has_no_warning(quantised):
    model, images, labels = quantised
    (result,) = run_attacks(model.linear, images, labels, attacks="worst_case", epsilons=0.01)
    assert not result.upper_bound
    assert "flags" not in result.to_dict()


def test_its_surrogate_is_a_module_in_python(quantised, monkeypatch):
    model, images, labels = quantised
    given = []

    def attack(*arguments: object, surrogate: nn.Module, **options: object) -> WorstCaseResult:
        given.append(surrogate)
        return worst_case_attack(*arguments, surrogate=surrogate, **options)

    monkeypatch.setattr("ibrobust.evaluation.worst_case_attack.worst_case_attack", attack)
    (result,) = run_attacks(model, images, labels, attacks=WorstCase(surrogate=model.linear), epsilons=0.05)
    assert given == [model.linear]
    assert result.attack == "WorstCase:surrogate=Sequential"
    assert WorstCase(surrogate=model.linear).source != WorstCase(surrogate=nn.Linear(432, 10)).source


def test_a_surrogate_that_is_only_a_name_is_refused_before_the_work(quantised):
    model, images, labels = quantised
    named = read_attack("worst_case:surrogate=other")
    with pytest.raises(IbrobustError, match=r"WorstCase\(surrogate=ibrobust.load_model\('other'\)\)"):
        run_attacks(model, images, labels, attacks=named, epsilons=0.05)
    assert named.with_surrogate(model.linear).label == "WorstCase:surrogate=other"


def test_a_random_model_is_judged_by_the_mean_over_draws_and_not_by_one():
    images, labels = torch.full((100, *SHAPE), 0.5), torch.zeros(100, dtype=torch.long)
    (worst,) = run_attacks(Noisy(), images, labels, attacks="worst_case", epsilons=0.01)
    (one,) = run_attacks(Noisy(), images, labels, attacks="FGSM", epsilons=0.01)
    # One draw is wrong with probability 0.24, the mean of 32 draws with 3e-5.
    assert sum(one.clean_correct) < 95
    assert sum(worst.clean_correct) == 100
    assert "random numbers" in worst.flags[0]


def test_l2_takes_epsilons_above_one_and_l_infinity_does_not(quantised):
    model, images, labels = quantised
    (result,) = run_attacks(model.linear, images, labels, attacks="PGD:norm=L2,steps=2", epsilons="3.0")
    assert result.epsilon == 3.0
    with pytest.raises(IbrobustError, match=r"outside \[0, 1\]"):
        run_attacks(model.linear, images, labels, attacks=["PGD:norm=L2", "PGD"], epsilons=3.0)


def test_nan_gradients_of_images_that_are_wrong_without_an_attack_are_not_counted():
    """Two images have a NaN gradient; the second of them is dark, so it is wrong already."""
    images = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 0.1, 0.1, 0.1], [0.7, 0.7, 0.7, 0.7]]).view(3, 1, 2, 2)
    labels = torch.zeros(3, dtype=torch.long)
    (result,) = run_attacks(NaNGradient(), images, labels, attacks="worst_case", epsilons=0.01)
    assert result.nonfinite_gradient == 1
