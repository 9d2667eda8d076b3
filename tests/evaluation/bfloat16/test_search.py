"""precision=bf16: images are looked for on a rounded copy, and the model itself says what counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Found
from ibrobust.evaluation.attacks.batch import attack_batch
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.attacks.pgd import ZERO_GRADIENT
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.bfloat16 import search as search_copy
from ibrobust.evaluation.bfloat16 import speed as bfloat16_speed
from ibrobust.evaluation.bfloat16.copy import differentiable_copy, low_precision_copy
from ibrobust.evaluation.guarded_model import guard
from ibrobust.seeds import evaluation_seed

EPSILON = 0.1
AUTOATTACK = "AutoAttack:n_iter=5,n_queries=20"
Data = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def whatever_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search on a copy whatever the processor is fast at."""
    monkeypatch.setattr(bfloat16_speed, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(bfloat16_speed, "_gain_of_a_convolution", lambda: 2.0)


@pytest.fixture
def data(robust_model: nn.Module, test_data: Data) -> Data:
    """Images that the model has right."""
    images, labels = test_data[0][:30], test_data[1][:30]
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
    assert differ <= 1
    assert "precision=bf16" in drafted.attack


def test_what_falls_on_a_wrong_copy_alone_is_attacked_on_the_model(robust_model: nn.Module, data: Data) -> None:
    """A copy that gets everything wrong lets every attack stop at once, at the images themselves."""

    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return -robust_model(images)

    plain, _ = attack_batch(robust_model, *data, read_attack(AUTOATTACK), epsilon=EPSILON, seed=3)
    spec = read_attack(f"{AUTOATTACK},precision=bf16")
    drafted, _ = attack_batch(robust_model, *data, spec, epsilon=EPSILON, seed=3, copied=Wrong())
    torch.testing.assert_close(drafted, plain)
    assert (robust_model(drafted).argmax(dim=1) != data[1]).any()


def test_a_gradient_that_rounding_hides_is_seen(robust_model: nn.Module, data: Data) -> None:
    class NoGradient(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            root = (images[:, :1, 0, 0] - images[:, :1, 0, 0]).sqrt()  # 0, with a gradient of infinity times 0
            return robust_model(images) + root

    spec = read_attack("PGD:steps=2,precision=bf16")
    _, nonfinite = attack_batch(NoGradient(), *data, spec, epsilon=EPSILON, seed=0, copied=robust_model)
    assert nonfinite.all()


def test_a_zero_gradient_is_a_warning_of_a_search_on_a_copy_too(robust_model: nn.Module, data: Data) -> None:
    class Rounded(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return robust_model((images * 8).round() / 8)

    flags: list[str] = []
    spec = read_attack("PGD:steps=2,precision=bf16")
    attack_batch(Rounded(), *data, spec, epsilon=EPSILON, seed=0, copied=Rounded(), flags=flags)
    assert flags == [ZERO_GRADIENT]


class _Copy(nn.Module):
    """Of a model, in parts; what is wrong with it is a subclass's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.first, self.following, self.flat = model.features[0], model.features[1:-1], model.features[-1]


class _WithoutFiniteGradient(_Copy):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) + (images[:, :1, 0, 0] - images[:, :1, 0, 0]).sqrt()


class _WithOtherGradient(_Copy):
    def forward(self, images: Tensor) -> Tensor:
        other = self.model(images.flip(1, 2))
        return self.model(images).detach() + other - other.detach()


class _WithoutFiniteLogits(_Copy):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * torch.nan


@pytest.mark.parametrize("kind", [_WithoutFiniteGradient, _WithOtherGradient, _WithoutFiniteLogits])
def test_nothing_that_only_the_copy_says_counts(kind: type[_Copy], robust_model: nn.Module, data: Data) -> None:
    attack = "PGD:steps=10,random_start=false"
    plain, _ = attack_batch(robust_model, *data, read_attack(attack), epsilon=EPSILON, seed=0)
    spec = read_attack(f"{attack},precision=bf16")
    copied = kind(robust_model)
    found, nonfinite = attack_batch(robust_model, *data, spec, epsilon=EPSILON, seed=0, copied=copied)
    assert not nonfinite.any()
    broken, expected = (robust_model(images).argmax(dim=1) != data[1] for images in (found, plain))
    assert expected.sum() > 5
    assert (broken >= expected).all()


class _Levels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        return (images * 15).round() / 15

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class _OwnBackward(_Copy):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(_Levels.apply(images))


class _WithoutRecording(_Copy):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            change = (images * 15).round() / 15 - images
        return self.model(images + change)


class _CutInOneBranch(_Copy):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            half = self.model(images.flip(3))
        return self.model(images) + half


@pytest.mark.parametrize("kind", [_OwnBackward, _WithoutRecording, _CutInOneBranch])
def test_a_model_whose_own_backward_pass_the_copy_lacks_is_refused(
    kind: type[_Copy], robust_model: nn.Module, data: Data
) -> None:
    with pytest.raises(IbrobustError, match="backward pass of its own.*leave precision=bf16 out"):
        run_attacks(kind(robust_model), *data, attacks=["PGD:precision=bf16"], epsilons=[EPSILON])


def test_a_straight_through_gradient_without_a_backward_pass_is_in_the_copy(
    robust_model: nn.Module, data: Data
) -> None:
    class Levels(_Copy):
        def forward(self, images: Tensor) -> Tensor:
            return self.model(images + ((images * 15).round() / 15 - images).detach())

    model = Levels(robust_model).eval().requires_grad_(False)
    assert search_copy.search_copy(model, *data) is not None


def test_operations_in_place_stay_in_the_copy(robust_model: nn.Module, data: Data) -> None:
    class Normalised(_Copy):
        def forward(self, images: Tensor) -> Tensor:
            x = images.clone()
            x.sub_(0.3).div_(0.4)
            return self.model.head(self.model.features(x))

    model = Normalised(robust_model).requires_grad_(False)
    with torch.no_grad():
        logits = differentiable_copy(model, data[0][:1], dtype=torch.float32)(data[0])
        torch.testing.assert_close(logits, robust_model(data[0]), rtol=1e-4, atol=1e-4)


def test_an_operation_in_place_that_the_copy_cannot_have_is_refused(robust_model: nn.Module, data: Data) -> None:
    """The sum is taken from a float32 copy of the features, and the features stay as they are."""

    class Added(_Copy):
        def forward(self, images: Tensor) -> Tensor:
            features = self.first(images)
            features.add_(1.0)
            return self.model.head(self.flat(self.following(features)))

    with pytest.raises(IbrobustError, match="agrees with its logits and gradients on 0%.*leave precision=bf16 out"):
        run_attacks(Added(robust_model), *data, attacks=["PGD:precision=bf16"], epsilons=[EPSILON])


@pytest.mark.parametrize("shape", ["size", "shape"])
def test_a_net_that_flattens_with_a_view_has_a_copy(
    shape: str, robust_model: nn.Module, data: Data, capfd: pytest.CaptureFixture[str]
) -> None:
    class Viewed(_Copy):
        def forward(self, images: Tensor) -> Tensor:
            x = self.following(self.first((images - 0.3) / 0.4))
            return self.model.head(x.view(x.size(0) if shape == "size" else x.shape[0], -1))

    model = Viewed(robust_model).eval().requires_grad_(False)
    assert search_copy.search_copy(model, *data) is not None
    margins, _, _ = low_precision_copy(model, data[0][:1]).margins(*data)
    with torch.no_grad():
        torch.testing.assert_close(margins, -margin(robust_model(data[0]), data[1]), rtol=0.02, atol=0.2)
    assert capfd.readouterr().err == ""


def test_the_refusal_names_what_the_copy_failed_on(
    robust_model: nn.Module, data: Data, capfd: pytest.CaptureFixture[str]
) -> None:
    class Branching(_Copy):
        def forward(self, images: Tensor) -> Tensor:
            x = self.following(self.first(images))
            return self.model.head(self.flat(x if x.sum() > 0 else -x))

    for model, reason in (
        (Branching(robust_model), "no fixed graph"),
        (nn.Sequential(nn.Flatten()), "no convolution"),
    ):
        with pytest.raises(IbrobustError, match=f"{reason}.*leave precision=bf16 out") as raised:
            run_attacks(model, *data, attacks=["PGD:precision=bf16"], epsilons=[EPSILON])
        assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("question", ["bfloat16_is_fast", "is_faster"])
def test_where_bfloat16_is_slow_the_model_is_attacked_and_that_is_said(
    question: str, robust_model: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_copy, question, lambda *arguments: False)
    with pytest.warns(UserWarning, match="not faster here"):
        (found,) = run_attacks(robust_model, *data, attacks=["PGD:steps=3,precision=bf16"], epsilons=[EPSILON])
    seed = evaluation_seed(0, "PGD:precision=bf16,steps=3", EPSILON, 0)
    plain, _ = attack_batch(robust_model, *data, read_attack("PGD:steps=3"), epsilon=EPSILON, seed=seed)
    assert found.attacked_correct == tuple((robust_model(plain).argmax(dim=1) == data[1]).tolist())


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
            return self.model(images + 0.1 * torch.randn(3, 16, 16))

    with pytest.raises(IbrobustError, match="leave precision=bf16 out"):
        run_attacks(Noisy(), *data, attacks=["PGD:precision=bf16"], epsilons=[EPSILON])


def test_a_seed_gives_the_same_result_twice(robust_model: nn.Module, data: Data) -> None:
    first, second = (
        run_attacks(robust_model, *data, attacks=[f"{AUTOATTACK},precision=bf16"], epsilons=[EPSILON]) for _ in range(2)
    )
    assert first == second


class _Pixel(nn.Module):
    """Images (B, 1, 1, 1) -> logits (B, 2): these two at a pixel of 0.5, with slopes of 1 and -1."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.at_grey = torch.tensor([first, second])

    def forward(self, images: Tensor) -> Tensor:
        rise = images.flatten(1) - 0.5
        return torch.cat([rise, -rise], dim=1) + self.at_grey


GREY = torch.full((3, 1, 1, 1), 0.5), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(("first", "agrees"), [(1.0, True), (2.0, False)])
def test_a_copy_of_which_one_logit_differs_does_not_agree(first: float, agrees: bool) -> None:
    """The other logit is the same, and so is the gradient, which does not depend on the label's own logit."""
    model, copied = guard(_Pixel(1.0, 0.5)), guard(_Pixel(first, 0.5))
    found = search_copy.agrees(copied, model, *GREY, search_copy.SAME_BUT_FOR_ROUNDING)
    assert found.tolist() == [agrees] * 3


def test_what_breaks_the_copy_by_rounding_alone_is_attacked_on_the_model() -> None:
    """A difference of a hundredth decides: the copy has every image wrong, so the attack on it changes nothing."""
    model, copied = guard(_Pixel(1.0, 0.99)), guard(_Pixel(0.99, 1.0))

    def attack(attacked: nn.Module, images: Tensor, labels: Tensor) -> Found:
        moved = images if attacked is copied else images - 0.2
        return Found(moved.clone(), torch.zeros(len(images), dtype=torch.bool))

    adversarial = search_copy.search_on_copy(attack, copied, model, *GREY)[0]
    assert model(adversarial).argmax(dim=1).tolist() == [1, 1, 1]
