"""precision=bf16: images are looked for on a rounded copy, and the model itself says what counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation import batch_attacks
from ibrobust.evaluation.attack_spec import parse_attack
from ibrobust.evaluation.attacks import run_attacks
from ibrobust.evaluation.batch_attacks import attack_batch
from ibrobust.evaluation.low_precision import differentiable_copy

EPSILON = 0.1
AUTOATTACK = "AutoAttack:n_iter=10,n_queries=50"
Data = tuple[Tensor, Tensor]


@pytest.fixture
def data(robust_model: nn.Module, test_data: Data) -> Data:
    """Images that the model has right."""
    images, labels = test_data[0][:60], test_data[1][:60]
    right = robust_model(images).argmax(dim=1) == labels
    return images[right], labels[right]


def test_the_copys_gradients_are_the_models_but_for_rounding(robust_model: nn.Module, data: Data) -> None:
    model = robust_model.requires_grad_(False)
    copied = differentiable_copy(model, data[0][:1])
    points = data[0].clone().requires_grad_()
    gradients = [
        torch.autograd.grad(nn.functional.cross_entropy(of(points), data[1], reduction="sum"), points)[0]
        for of in (model, copied)
    ]
    cosines = nn.functional.cosine_similarity(*(gradient.flatten(1) for gradient in gradients))
    assert cosines.max() < 1  # it is a copy in another precision
    assert cosines.median() > 0.995


@pytest.mark.parametrize("attack", ["PGD:steps=10", AUTOATTACK])
def test_as_many_images_fall_as_in_float32(attack: str, robust_model: nn.Module, data: Data) -> None:
    joint = "," if ":" in attack else ":"
    plain, drafted = run_attacks(
        robust_model, *data, attacks=[attack, f"{attack}{joint}precision=bf16"], epsilons=[EPSILON]
    )
    assert 0.1 < plain.robust_accuracy < 0.9
    differ = sum(a != b for a, b in zip(plain.attacked_correct, drafted.attacked_correct, strict=True))
    assert differ <= 2
    assert "precision=bf16" in drafted.attack


def test_what_falls_on_a_wrong_copy_alone_is_attacked_on_the_model(
    robust_model: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that gets everything wrong lets every attack stop at once, at the images themselves."""

    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return -robust_model(images)

    monkeypatch.setattr(batch_attacks, "differentiable_copy", lambda model, image: Wrong())
    plain, _ = attack_batch(robust_model, *data, parse_attack(AUTOATTACK), epsilon=EPSILON, seed=3)
    drafted, _ = attack_batch(
        robust_model, *data, parse_attack(f"{AUTOATTACK},precision=bf16"), epsilon=EPSILON, seed=3
    )
    torch.testing.assert_close(drafted, plain)
    assert (robust_model(drafted).argmax(dim=1) != data[1]).any()


def test_a_gradient_that_rounding_hides_is_seen(
    robust_model: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoGradient(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            root = (images[:, :1, 0, 0] - images[:, :1, 0, 0]).sqrt()  # 0, with a gradient of infinity times 0
            return robust_model(images) + root

    monkeypatch.setattr(batch_attacks, "differentiable_copy", lambda model, image: robust_model)
    spec = parse_attack("PGD:steps=2,precision=bf16")
    _, nonfinite = attack_batch(NoGradient(), *data, spec, epsilon=EPSILON, seed=0)
    assert nonfinite.all()


def test_a_model_without_a_copy_is_refused(robust_model: nn.Module, data: Data) -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return robust_model(images if images.mean() > 0 else images + 1)

    with pytest.raises(IbrobustError, match="leave precision=bf16 out"):
        run_attacks(Branching(), *data, attacks=["PGD:precision=bf16"], epsilons=[EPSILON])


def test_a_model_that_draws_numbers_is_refused(robust_model: nn.Module, data: Data) -> None:
    """Its graph would hold one draw for good, and attacks on that draw say little of the others."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = robust_model

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images + 0.1 * torch.randn(3, 32, 32))

    with pytest.raises(IbrobustError, match="leave precision=bf16 out"):
        run_attacks(Noisy(), *data, attacks=["PGD:precision=bf16"], epsilons=[EPSILON])


def test_a_seed_gives_the_same_result_twice(robust_model: nn.Module, data: Data) -> None:
    first, second = (
        run_attacks(robust_model, *data, attacks=[f"{AUTOATTACK},precision=bf16"], epsilons=[EPSILON]) for _ in range(2)
    )
    assert first == second
