"""Attacks by name: against the libraries, seeded, resumable, within their balls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyautoattack
import pytest
import torch
import torchattacks
from brightness import Brightness, NaNGradient
from torch import Tensor, nn

import ibrobust
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.batch import attack_batch
from ibrobust.evaluation.attacks.by_name import create_attack, read_attack
from ibrobust.evaluation.attacks.perturbation import perturbation_size
from ibrobust.evaluation.attacks.pgd import ZERO_GRADIENT
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.attacks.text_form import list_attacks
from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.records import is_older_attack

Data = tuple[Tensor, Tensor]
EPSILON = 0.1


@pytest.fixture
def data(test_data: Data) -> Data:
    return test_data[0][:60], test_data[1][:60]


def _one(model: nn.Module, data: Data, attack: str, **options: object) -> AttackResult:
    (result,) = run_attacks(model, *data, attacks=[attack], epsilons=[EPSILON], **options)
    return result


def test_fgsm_equals_the_sweep(robust_model: nn.Module, test_data: Data) -> None:
    sweep = fgsm_sweep(robust_model, *test_data, [EPSILON])
    assert sum(_one(robust_model, test_data, "FGSM").attacked_correct) == sweep.correct[0]


def test_pgd_breaks_what_torchattacks_breaks(robust_model: nn.Module, test_data: Data) -> None:
    images, labels = test_data
    result = _one(robust_model, test_data, "PGD:steps=8,alpha=0.03,random_start=false", batch_size=360)
    attack = torchattacks.PGD(robust_model, eps=EPSILON, alpha=0.03, steps=8, random_start=False)
    theirs = robust_model(attack(images, labels)).argmax(1) == labels
    ours = torch.tensor(result.attacked_correct)
    assert (ours <= theirs).all()
    assert 0 < int(ours.sum()) < 330


class HalfFlat(nn.Module):
    """The second class rises with the first pixel above 0.5 and is flat below, where no gradient leads anywhere."""

    def forward(self, images: Tensor) -> Tensor:
        rise = 100.0 * torch.relu(images[:, 0, 0, 0] - 0.5)
        return torch.stack([torch.ones_like(rise), rise], dim=1)


def test_more_restarts_only_break_more() -> None:
    """One random start is on the flat side for half of the images, forty starts for none."""
    data = torch.full((60, 3, 4, 4), 0.5), torch.zeros(60, dtype=torch.long)
    one = torch.tensor(_one(HalfFlat(), data, "PGD:steps=3,restarts=1").attacked_correct)
    many = torch.tensor(_one(HalfFlat(), data, "PGD:steps=3,restarts=40").attacked_correct)
    assert 10 < int(one.sum()) < 50
    assert int(many.sum()) == 0


def test_autoattack_equals_pyautoattack(robust_model: nn.Module, data: Data) -> None:
    images, labels = data
    spec = read_attack("AutoAttack:n_iter=10,n_queries=50")
    right = robust_model(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    ours, _ = attack_batch(robust_model, images, labels, spec, epsilon=0.12, seed=3)
    suite = pyautoattack.AutoAttack(robust_model, eps=0.12, seed=3)
    suite.apgd.n_iter = suite.apgd_targeted.n_iter = suite.fab.n_iter = 10
    suite.square.n_queries = 50
    with torch.random.fork_rng():
        theirs, _ = suite.run_standard_evaluation(images, labels, batch_size=len(images))
    torch.testing.assert_close(ours, theirs)
    assert (robust_model(ours).argmax(1) != labels).any()


def test_autoattack_for_random_models_runs(plain_model: nn.Module, data: Data) -> None:
    result = _one(plain_model, (data[0][:8], data[1][:8]), "AutoAttack:version=rand,n_iter=3")
    assert result.accuracy_under_attack < result.clean_accuracy


@pytest.mark.parametrize("num_classes", [2, 3])
def test_autoattack_leaves_out_losses_that_need_more_classes(
    num_classes: int, plain_model: nn.Module, data: Data
) -> None:
    class Fewer(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return plain_model(images)[:, :num_classes]

    result = _one(Fewer(), (data[0], data[1] % num_classes), "AutoAttack:n_iter=5,n_queries=20")
    assert result.robust_accuracy <= result.clean_accuracy
    assert result.upper_bound
    assert "DLR loss" in result.flags[0]


_FAST_OPTIONS = {
    "steps": 2, "n_queries": 10, "nb_sample": 4, "max_iterations": 10, "binary_search_steps": 2, "popsize": 2,
    "restarts": 2, "num_iter_set": 2, "noise_batch_size": 2, "gamma": 0.002,
}  # fmt: skip


# SparseFool passes a tensor where NumPy 2 wants another signature.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("name", list_attacks())
def test_every_attack_runs_and_stays_in_its_ball(name: str, robust_model: nn.Module, data: Data) -> None:
    """The check inside `attack_batch` raises where one does not."""
    known = type(create_attack(name)).model_fields
    options = {key: value for key, value in _FAST_OPTIONS.items() if key in known}
    if name == "AutoAttack":
        options = {"n_iter": 3, "n_queries": 10}
    spec = create_attack(name, **options)
    (result,) = run_attacks(robust_model, data[0][:4], data[1][:4], attacks=[spec], epsilons=[EPSILON])
    assert result.total == 4
    assert result.norm == spec.norm


def test_an_attack_without_a_radius_counts_where_it_needed_no_more(plain_model: nn.Module, data: Data) -> None:
    results = run_attacks(plain_model, *data, attacks=["DeepFool:steps=10"], epsilons=[0.001, 1.0])
    assert results[0].robust_accuracy == results[0].clean_accuracy
    assert results[1].robust_accuracy < results[0].robust_accuracy


def test_a_result_outside_the_ball_is_an_error(
    plain_model: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cheat(torchattacks.BIM):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return (images + 1.5 * self.eps).clamp(0, 1)

    monkeypatch.setattr(torchattacks, "BIM", Cheat)
    with pytest.raises(IbrobustError, match="more than epsilon 0.1"):
        _one(plain_model, data, "BIM")


def test_pixels_outside_the_unit_range_are_an_error(
    plain_model: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cheat(torchattacks.BIM):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return images - 0.5 * self.eps

    monkeypatch.setattr(torchattacks, "BIM", Cheat)
    with pytest.raises(IbrobustError, match="outside \\[0, 1\\]"):
        _one(plain_model, data, "BIM")


def _does_nothing(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    del model, labels, epsilon, seed
    return images


def _gives_nan(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    del model, labels, epsilon, seed
    return images.where(images[:, :1, :1, :1] > 0, torch.nan)


FIRST_DARK = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 0.7, 0.7, 0.7], [0.7, 0.7, 0.7, 0.7]]).reshape(3, 1, 2, 2)


@pytest.mark.parametrize(
    ("attack", "left"),
    [
        ("FGSM", (True, False, False)),
        ("PGD:steps=2,random_start=false", (True, False, False)),
        ("BIM:steps=2,alpha=0.22", (True, False, False)),
        ("AutoAttack:n_iter=5,n_queries=50", (True, False, False)),
        ("WorstCase", (True, False, False)),
        (_does_nothing, (True, True, True)),
        (_gives_nan, (True, True, True)),
    ],
)
def test_a_gradient_that_is_no_number_breaks_no_image_and_is_a_warning(attack, left) -> None:
    """Without their first pixels, the first image breaks at 0.34 and the second at 0.04; the third breaks at 0.2."""
    labels = torch.zeros(3, dtype=torch.long)
    (result,) = run_attacks(NaNGradient(), FIRST_DARK, labels, attacks=attack, epsilons=0.22)
    assert result.robust_correct == left
    assert result.nonfinite_gradient == 2
    assert result.upper_bound


def _corners(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    """Keep random corners of the ball that are misclassified."""
    generator, worst = torch.Generator().manual_seed(seed), images.clone()
    for _ in range(8):
        corner = (images + epsilon * (torch.rand(images.shape, generator=generator) - 0.5).sign()).clamp(0, 1)
        broken = model(corner).argmax(dim=1) != labels
        worst[broken] = corner[broken]
    return worst


@pytest.mark.parametrize(
    "attack",
    [
        _corners,
        "foolbox:LinfAdditiveUniformNoiseAttack",
        "foolbox:HopSkipJumpAttack:steps=1,constraint=linf",
        "Square:n_queries=2",
        "Pixle",
    ],
)
def test_a_gradient_that_is_no_number_does_not_matter_to_an_attack_without_gradients(attack) -> None:
    if str(attack).startswith("foolbox"):
        pytest.importorskip("foolbox")
    labels = torch.zeros(3, dtype=torch.long)
    results = [
        run_attacks(model, FIRST_DARK, labels, attacks=attack, epsilons=0.22)[0]
        for model in (NaNGradient(), Brightness())  # which differ in their gradient alone
    ]
    assert [(result.nonfinite_gradient, result.upper_bound) for result in results] == [(0, False)] * 2
    assert results[0].robust_correct == results[1].robust_correct


class Away(nn.Module):
    """The first of four classes if it is bright, with exact logits; only the given images have its gradient."""

    def __init__(self, images: Tensor, factor: float) -> None:
        super().__init__()
        self.images, self.factor = images, factor

    def forward(self, images: Tensor) -> Tensor:
        score = images.mean(dim=(1, 2, 3)) - 0.5
        if score.requires_grad and not torch.isin(images, self.images).all():
            score.register_hook(lambda gradient: gradient * self.factor)
        return torch.stack([score, -score, -score - 1, -score - 2], dim=1)


def _two_steps(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    moved = images
    for _ in range(2):
        moved = moved.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(moved), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = (moved + epsilon / 2 * gradient.sign()).clamp(0, 1)
    return moved.detach()


GREY = torch.full((4, 1, 12, 12), 0.75)


@pytest.mark.parametrize(
    "attack", [_two_steps, "BIM:steps=2,alpha=0.1", "AutoAttack:n_iter=3,n_queries=3", "WorstCase", "PGD:steps=2"]
)
def test_a_gradient_that_is_no_number_on_the_way_is_counted_and_a_warning(attack) -> None:
    labels = torch.zeros(4, dtype=torch.long)
    (result,) = run_attacks(Away(GREY, torch.nan), GREY, labels, attacks=attack, epsilons=0.2)
    assert (result.nonfinite_gradient, result.upper_bound) == (4, True)
    assert not is_older_attack(result.summary())
    (result,) = run_attacks(Away(GREY, 1.0), GREY, labels, attacks=attack, epsilons=0.2)
    assert (result.nonfinite_gradient, result.upper_bound) == (0, False)


def _normalised(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    moved = _two_steps(model, images, labels, epsilon=epsilon, seed=seed).requires_grad_()
    (gradient,) = torch.autograd.grad(model(moved)[:, 1].sum(), moved)
    return (images + epsilon * gradient / gradient.norm()).clamp(0, 1)


_normalised.norm = "L2"  # type: ignore[attr-defined]


@pytest.mark.parametrize("attack", [_normalised, "AutoAttack:norm=L2,n_iter=5,n_queries=50"])
def test_a_step_that_is_nan_for_the_models_gradient_is_a_warning_and_no_error(attack) -> None:
    labels = torch.zeros(4, dtype=torch.long)
    (result,) = run_attacks(Away(GREY, torch.inf), GREY, labels, attacks=attack, epsilons=5.0)
    assert (result.nonfinite_gradient, result.upper_bound) == (4, True)
    assert result.robust_accuracy == (1 if attack is _normalised else 0)  # Square needs no gradient


class Rounded(nn.Module):
    """Two classes by brightness in 15 levels: the gradient is zero."""

    def forward(self, images: Tensor) -> Tensor:
        score = ((images * 15).round() / 15).mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize(
    ("attack", "warns"),
    [
        (_two_steps, True),
        ("MIFGSM:steps=2", True),
        ("CW:steps=2", True),
        ("foolbox:LinfPGD:steps=2", True),
        ("PGD:steps=2", True),
        (_does_nothing, False),
        ("Square:n_queries=2", False),
        ("GN", False),
    ],
)
def test_an_attack_that_follows_a_zero_gradient_warns(attack, warns) -> None:
    if str(attack).startswith("foolbox"):
        pytest.importorskip("foolbox")
    (result,) = run_attacks(Rounded(), GREY, torch.zeros(4, dtype=torch.long), attacks=attack, epsilons=0.1)
    assert result.robust_accuracy == 1
    assert (ZERO_GRADIENT in result.flags) is result.upper_bound is warns


class Saturated(nn.Module):
    """Four classes by brightness, with a margin of 400 here: cross-entropy has a zero gradient, the margin not."""

    def forward(self, images: Tensor) -> Tensor:
        score = 1e3 * (images.mean(dim=(1, 2, 3)) - 0.55)
        return torch.stack([score, -score, -score - 1, -score - 2], dim=1)


def _one_step(loss, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    points = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(model(points), labels).sum(), points)
    return (images + epsilon * gradient.sign()).clamp(0, 1)


def _margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return logits[:, 1] - logits[:, 0] + 0 * labels


def _on_margin(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    return _one_step(_margin_loss, model, images, labels, epsilon)


def _on_margin_by_halves(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    halves = zip(images.split(2), labels.split(2), strict=True)
    return torch.cat([_one_step(_margin_loss, model, *half, epsilon) for half in halves])


def _by_halves(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    halves = zip(images.split(2), labels.split(2), strict=True)
    return torch.cat([_one_step(nn.functional.cross_entropy, model, *half, epsilon) for half in halves])


def _by_torch_func(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    gradient = torch.func.grad(lambda points: nn.functional.cross_entropy(model(points), labels))(images)
    return (images + epsilon * gradient.sign()).clamp(0, 1)


def _jacobian(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    """Follow the larger of the gradients of the logits, one after the other through the same graph."""
    points = images.clone().requires_grad_()
    logits = model(points)
    rows = [torch.autograd.grad(logits[:, k].sum(), points, retain_graph=True)[0] for k in range(2)]
    return (images + epsilon * (rows[1] - rows[0]).sign()).clamp(0, 1)


def _far_away(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
    """Start from black images, which are broken, and follow cross-entropy back: nothing leads nearer."""
    _one_step(nn.functional.cross_entropy, model, images, labels, 0.1)
    return torch.zeros_like(images)


_far_away.minimal = True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("attack", "epsilon", "left", "warns"),
    [
        (_on_margin, 0.1, 1, False),
        (_on_margin, 0.3, 0, False),
        (_on_margin_by_halves, 0.1, 1, False),
        (_jacobian, 0.1, 1, False),
        ("PGD:steps=2,loss=margin", 0.1, 1, False),
        ("CW:steps=2", 0.1, 1, False),
        ("DeepFool", 0.001, 1, False),
        ("AutoAttack:n_iter=2,n_queries=5", 0.1, 1, False),
        ("foolbox:LinfDeepFoolAttack", 0.3, 0, False),
        ("PGD:steps=2", 0.1, 1, True),
        ("MIFGSM:steps=2", 0.1, 1, True),
        ("foolbox:LinfPGD:steps=2", 0.1, 1, True),
        (_two_steps, 0.1, 1, True),
        (_by_halves, 0.1, 1, True),
        (_by_torch_func, 0.1, 1, True),
        (_far_away, 0.1, 1, True),
    ],
)
def test_the_gradient_that_an_attack_takes_decides_whether_it_was_zero(attack, epsilon, left, warns) -> None:
    if str(attack).startswith("foolbox"):
        pytest.importorskip("foolbox")
    (result,) = run_attacks(Saturated(), GREY, torch.zeros(4, dtype=torch.long), attacks=attack, epsilons=epsilon)
    assert (result.clean_accuracy, result.robust_accuracy) == (1, left)
    assert (ZERO_GRADIENT in result.flags) is result.upper_bound is warns


def test_one_of_several_gradients_through_a_graph_may_be_zero() -> None:
    class OneLogit(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.mean(dim=(1, 2, 3)) - 0.55
            return torch.stack([torch.zeros_like(score), -score], dim=1)

    (result,) = run_attacks(OneLogit(), GREY, torch.zeros(4, dtype=torch.long), attacks=_jacobian, epsilons=0.1)
    assert (result.robust_accuracy, result.upper_bound) == (1, False)


class FlatAtGrey(nn.Module):
    """The first class falls away from grey, but is flat within 0.001 of it: only a random start has a gradient."""

    def forward(self, images: Tensor) -> Tensor:
        score = 0.5 - torch.relu((images - 0.75).abs() - 1e-3).mean(dim=(1, 2, 3))
        return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize(
    ("attack", "warns"),
    [
        ("PGD:steps=2,random_start=true", False),
        ("foolbox:LinfPGD:steps=2", False),
        ("foolbox:LinfBasicIterativeAttack:steps=2,random_start=false", True),
        ("MIFGSM:steps=2", True),
    ],
)
def test_the_first_gradient_is_that_of_the_attacks_own_start(attack, warns) -> None:
    if attack.startswith("foolbox"):
        pytest.importorskip("foolbox")
    (result,) = run_attacks(FlatAtGrey(), GREY, torch.zeros(4, dtype=torch.long), attacks=attack, epsilons=0.1)
    assert (ZERO_GRADIENT in result.flags) is result.upper_bound is warns


def test_an_image_that_is_broken_without_a_direction_gives_no_warning() -> None:
    """The attack follows a zero gradient, and then makes the images black."""

    def black(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
        _one_step(nn.functional.cross_entropy, model, images, labels, epsilon)
        return (images - epsilon).clamp(0, 1)

    labels = torch.zeros(4, dtype=torch.long)
    near, far = run_attacks(Saturated(), GREY, labels, attacks=black, epsilons=[0.1, 0.3])
    assert (near.robust_accuracy, near.upper_bound, far.robust_accuracy, far.upper_bound) == (1, True, 0, False)


def test_a_function_may_use_torch_func() -> None:
    def follow(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Tensor:
        rows = torch.func.vmap(torch.func.jacrev(lambda image: model(image[None])[0]))(images)
        return (images + epsilon * rows[:, 1].sign()).clamp(0, 1)

    class Bright(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.mean(dim=(1, 2, 3)) - 0.5
            return torch.stack([score, -score], dim=1)

    labels = torch.zeros(4, dtype=torch.long)
    (result,) = run_attacks(Bright(), GREY, labels, attacks=follow, epsilons=0.3)
    assert (result.robust_accuracy, result.upper_bound) == (0, False)


def test_images_that_are_wrong_already_are_skipped(plain_model: nn.Module, data: Data) -> None:
    labels = torch.cat([data[1][:50], (data[1][50:] + 1) % 10])
    result = _one(plain_model, (data[0], labels), "BIM:steps=1")
    assert not any(result.clean_correct[50:])
    assert not any(result.attacked_correct[50:])


def test_both_accuracies_are_what_they_are_called() -> None:
    result = AttackResult("X", "Linf", 0.1, (True, True, False, False), (True, False, True, False), 0, 0)
    assert (result.clean_accuracy, result.accuracy_under_attack, result.robust_accuracy) == (0.5, 0.5, 0.25)
    assert AttackResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


RANDOM_ATTACKS = ["PGD:steps=2", "Square:n_queries=20", "APGD:steps=2", "RFGSM:steps=1"]


def test_two_runs_agree_whatever_the_callers_random_state(robust_model: nn.Module, data: Data) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = run_attacks(robust_model, *data, attacks=RANDOM_ATTACKS, epsilons=[0.05, 0.1], batch_size=25)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(2)
    again = run_attacks(robust_model, *data, attacks=RANDOM_ATTACKS, epsilons=[0.05, 0.1], batch_size=25)
    assert again == first


@pytest.mark.parametrize("attack", ["PGD:steps=2", "Square:n_queries=20", "RFGSM:steps=1"])
def test_another_seed_gives_other_images(attack: str, robust_model: nn.Module, data: Data) -> None:
    spec = read_attack(attack)
    one, _ = attack_batch(robust_model, *data, spec, epsilon=2 * EPSILON, seed=1)
    same, _ = attack_batch(robust_model, *data, spec, epsilon=2 * EPSILON, seed=1)
    other, _ = attack_batch(robust_model, *data, spec, epsilon=2 * EPSILON, seed=2)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


class _Kill(Exception):
    pass


def test_a_killed_evaluation_goes_on_to_the_same_numbers(robust_model: nn.Module, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    options = {"attacks": RANDOM_ATTACKS, "epsilons": [0.05, 0.1], "batch_size": 25, "seed": 4}
    whole = run_attacks(robust_model, *data, **options)

    def kill(done: int, total: int) -> None:
        if done >= total / 2:
            raise _Kill

    with pytest.raises(_Kill):
        run_attacks(robust_model, *data, **options, state_path=path, progress=kill)
    with path.open("a") as file:
        file.write('{"attack": "PGD:steps=2", "epsi')  # a kill in the middle of a line
    seen: list[int] = []
    calls = _count_calls(robust_model)
    resumed = run_attacks(
        robust_model, *data, **options, state_path=path, progress=lambda done, total: seen.append(done)
    )
    assert resumed == whole
    assert seen[-1] == 60 * 8
    assert calls[0] > 1
    calls[0] = 0
    assert run_attacks(robust_model, *data, **options, state_path=path) == whole
    assert calls[0] == 2  # for the number of classes, and for the answers by which the state knows the model


class _NumpyNoise(nn.Module):
    """A model with noise of NumPy's global generator."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits + torch.from_numpy(np.random.randn(*logits.shape)).to(logits)


def test_a_killed_evaluation_goes_on_with_the_same_draws_of_any_generator(
    robust_model: nn.Module, data: Data, tmp_path: Path
) -> None:
    options = {"attacks": ["PGD:steps=1"], "epsilons": [0.05], "batch_size": 10, "seed": 4}
    model = _NumpyNoise(robust_model)
    whole = run_attacks(model, *data, **options)
    assert whole[0].clean_correct != run_attacks(robust_model, *data, **options)[0].clean_correct

    def kill(done: int, total: int) -> None:
        if done >= total / 2:
            raise _Kill

    with pytest.raises(_Kill):
        run_attacks(model, *data, **options, state_path=tmp_path / "state.jsonl", progress=kill)
    assert run_attacks(model, *data, **options, state_path=tmp_path / "state.jsonl") == whole


def _count_calls(model: nn.Module) -> list[int]:
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    model.register_forward_hook(count)
    return calls


@pytest.mark.parametrize("change", ["seed", "weights", "images", "epsilons"])
def test_a_state_of_another_evaluation_is_refused(
    change: str, plain_model: nn.Module, data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "state.jsonl"
    options = {"attacks": ["FGSM"], "epsilons": [0.1], "seed": 0}
    run_attacks(plain_model, *data, **options, state_path=path)
    images = data[0].clone()
    if change == "seed":
        options["seed"] = 1
    elif change == "weights":
        with torch.no_grad():
            plain_model.head.bias[0] += 1e-3
    elif change == "images":
        images[0, 0, 0, 0] = 0.7
    else:
        options["epsilons"] = [0.2]
    with pytest.raises(IbrobustError, match="another evaluation"):
        run_attacks(plain_model, images, data[1], **options, state_path=path)


def test_a_damaged_state_is_refused(plain_model: nn.Module, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    path.write_text("not json\n")
    with pytest.raises(IbrobustError, match="cannot be read"):
        run_attacks(plain_model, *data, attacks=["FGSM"], epsilons=[0.1], state_path=path)


@pytest.mark.parametrize("attack", ["APGD:loss=foo", "Square:norm=L3", "FAB:norm=Linfty"])
def test_an_option_that_torchattacks_does_not_know_is_one_sentence(
    plain_model: nn.Module, data: Data, attack: str
) -> None:
    with pytest.raises(IbrobustError, match=f"cannot run {attack}"):
        run_attacks(plain_model, *data, attacks=[attack], epsilons=[0.1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": []}, "No attack"),
        ({"epsilons": []}, "No attack or no epsilon"),
        ({"epsilons": [2.0]}, "epsilon 2"),
        ({"attacks": ["FGSM", "FGSM"]}, "occurs twice"),
        ({"epsilons": [0.1, 0.1]}, "occurs twice"),
        ({"batch_size": 0}, "batch size"),
        ({"seed": 2**63}, "seed is"),
        ({"seed": -1}, "seed is"),
    ],
)
def test_bad_input(plain_model: nn.Module, data: Data, changes: dict, message: str) -> None:
    with pytest.raises(IbrobustError, match=message):
        run_attacks(plain_model, *data, **{"attacks": ["FGSM"], "epsilons": [0.1], **changes})


@pytest.mark.parametrize(("norm", "size"), [("Linf", 0.5), ("L2", 0.5 * 3**0.5), ("L1", 1.5), ("L0", 1 / 16)])
def test_perturbation_size(norm: str, size: float) -> None:
    delta = torch.zeros(1, 3, 4, 4)
    delta[0, :, 1, 2] = 0.5
    assert float(perturbation_size(delta, norm)) == pytest.approx(size)


def test_scripts_import_from_the_folders_of_attacks_and_training() -> None:
    from ibrobust.evaluation import attacks
    from ibrobust.training import Recipe, train_encoder

    assert attacks.run_attacks is run_attacks
    assert all(getattr(attacks, name) is not None for name in attacks.__all__)
    assert Recipe is ibrobust.Recipe
    assert callable(train_encoder)
