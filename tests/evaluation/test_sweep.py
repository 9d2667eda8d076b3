"""The FGSM sweep against torchattacks.FGSM, run once for each epsilon."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchattacks
from brightness import NoisyPixel
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.logit_distance import ONE_DRAW
from ibrobust.evaluation.sweep import FGSMSweep, SweepResult, fgsm_sweep

EPSILONS = (0.0, 1 / 255, 2 / 255, 0.03, 8 / 255, 0.5, 1.0)
Data = tuple[Tensor, Tensor]


class _Sigmoid(nn.Module):
    """A model of another kind: two-layer, with a smooth non-linearity, logits up to hundreds."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(0.05 * torch.randn(3 * 16 * 16, 40, generator=generator))
        self.second = nn.Parameter(60 * torch.randn(40, 10, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(images.flatten(1) @ self.first) @ self.second


@pytest.fixture(params=["plain", "robust", "linear", "saturated"])
def any_model(request: pytest.FixtureRequest, plain_model: nn.Module, robust_model: nn.Module) -> nn.Module:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    nn.init.zeros_(linear[1].bias)
    nn.init.orthogonal_(linear[1].weight, generator=torch.Generator().manual_seed(1))
    models = {"plain": plain_model, "robust": robust_model, "linear": linear, "saturated": _Sigmoid()}
    return models[request.param].eval()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_images_equal_those_of_torchattacks_bit_for_bit(any_model: nn.Module, test_data: Data, batch_size: int) -> None:
    images, labels = test_data[0][:batch_size], test_data[1][:batch_size]
    ours = FGSMSweep(any_model, EPSILONS)(images, labels)
    for epsilon, adversarial in zip(EPSILONS, ours, strict=True):
        assert torch.equal(adversarial, torchattacks.FGSM(any_model, eps=epsilon)(images, labels))


@pytest.mark.parametrize("batch_size", [50, 360])
def test_counts_equal_those_of_torchattacks(any_model: nn.Module, test_data: Data, batch_size: int) -> None:
    images, labels = test_data
    result = fgsm_sweep(any_model, images, labels, EPSILONS, batch_size=batch_size)
    for epsilon, correct in zip(EPSILONS, result.correct, strict=True):
        attack = torchattacks.FGSM(any_model, eps=epsilon)
        expected = 0
        for part, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            expected += int((any_model(attack(part, targets)).argmax(1) == targets).sum())
        assert correct == expected


def test_epsilon_zero_is_the_clean_accuracy(any_model: nn.Module, test_data: Data) -> None:
    result = fgsm_sweep(any_model, *test_data, [0.0], batch_size=100)
    clean = int((any_model(test_data[0]).argmax(1) == test_data[1]).sum())
    assert result.correct == (clean,)
    assert result.clean_correct == clean


def test_uint8_images_count_as_their_255ths(plain_model: nn.Module, test_data: Data) -> None:
    images = (test_data[0] * 255).round().to(torch.uint8)
    assert fgsm_sweep(plain_model, images, test_data[1], EPSILONS) == fgsm_sweep(
        plain_model, images.float() / 255, test_data[1], EPSILONS
    )


class _Flawed(nn.Module):
    """The first three images of a batch have a zero gradient, the next two a NaN gradient with finite logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        if len(logits) < 5 or not logits.requires_grad:
            return logits
        logits = torch.cat([logits[:3].detach(), logits[3:]])
        broken = torch.zeros_like(logits)
        broken[3:5] = float("nan")
        logits.register_hook(lambda gradient: gradient + broken)
        return logits


def test_images_that_were_not_attacked_are_counted(plain_model: nn.Module, test_data: Data) -> None:
    result = fgsm_sweep(_Flawed(plain_model), test_data[0][:20], test_data[1][:20], [0.1])
    assert (result.zero_gradient, result.nonfinite_gradient, result.total) == (3, 2, 20)
    assert (result.zero_gradient_share, result.nonfinite_gradient_share) == (0.15, 0.1)


def test_a_gradient_that_is_no_number_is_a_warning(plain_model: nn.Module, test_data: Data) -> None:
    result = fgsm_sweep(_Flawed(plain_model), test_data[0][:20], test_data[1][:20], [0.1])
    assert any("gradient of 2 images is NaN or infinite" in flag for flag in result.flags)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_logits_that_are_no_numbers_are_never_right(value: float, test_data: Data) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 0 * images.mean(dim=(1, 2, 3))[:, None] + torch.full((len(images), 10), value)

    images, labels = test_data[0][:30], torch.zeros(30, dtype=torch.long)  # argmax would say class 0
    result = fgsm_sweep(Constant(), images, labels, [0.0])
    assert (result.clean_correct, result.correct) == (0, (0,))


def test_a_class_that_is_ruled_out_does_not_make_an_image_wrong(test_data: Data) -> None:
    class Masked(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            mean = images.mean(dim=(1, 2, 3))
            return torch.stack([mean, mean - 1, torch.full_like(mean, float("-inf"))], dim=1)

    labels = torch.zeros(30, dtype=torch.long)
    assert fgsm_sweep(Masked(), test_data[0][:30], labels, [0.0]).clean_correct == 30


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_callers_changes(plain_model: nn.Module, test_data: Data, fails: bool) -> None:
    plain_model.train()
    plain_model.features[1].eval()  # a part that the caller froze
    plain_model.head.weight.requires_grad_(False)
    plain_model.head.bias.grad = torch.ones(10)
    modes = [module.training for module in plain_model.modules()]
    state = {name: value.clone() for name, value in plain_model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in plain_model.parameters()]
    rng = torch.get_rng_state()
    images, labels = test_data[0][:40], test_data[1][:40].clone()
    if fails:

        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fgsm_sweep(plain_model, images, labels, [0.1], batch_size=10, progress=interrupt)
    else:
        fgsm_sweep(plain_model, images, labels, [0.1], batch_size=10)
    assert [module.training for module in plain_model.modules()] == modes
    assert [parameter.requires_grad for parameter in plain_model.parameters()] == flags
    assert all(torch.equal(value, state[name]) for name, value in plain_model.state_dict().items())
    assert torch.equal(plain_model.head.bias.grad, torch.ones(10))
    assert all(p.grad is None for p in plain_model.parameters() if p is not plain_model.head.bias)
    assert torch.equal(torch.get_rng_state(), rng)
    assert not images.requires_grad


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_the_caller_has_gradients_off(plain_model: nn.Module, test_data: Data, context: type) -> None:
    expected = fgsm_sweep(plain_model, *test_data, [0.02])
    with context():
        assert fgsm_sweep(plain_model, *test_data, [0.02]) == expected
        assert not torch.is_grad_enabled()


def test_progress_counts_images(plain_model: nn.Module, test_data: Data) -> None:
    seen: list[tuple[int, int]] = []
    fgsm_sweep(
        plain_model,
        test_data[0][:25],
        test_data[1][:25],
        [0.1],
        batch_size=10,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(10, 25), (20, 25), (25, 25)]


def test_nothing_is_printed_for_a_model_without_parameters(test_data: Data, capfd: pytest.CaptureFixture[str]) -> None:
    fgsm_sweep(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), *test_data, [0.1])
    assert capfd.readouterr() == ("", "")


def test_json_round_trip(plain_model: nn.Module, test_data: Data) -> None:
    result = fgsm_sweep(plain_model, *test_data, EPSILONS)
    written = json.loads(json.dumps(result.to_dict()))
    assert SweepResult.from_dict(written) == result
    assert written["accuracy"] == [correct / 360 for correct in result.correct]


def _image(**options: object) -> Tensor:
    return torch.zeros(2, 3, 16, 16, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilons": []}, "No epsilon"),
        ({"epsilons": [float("nan")]}, "epsilon nan"),
        ({"epsilons": [-0.1]}, "epsilon -0.1"),
        ({"epsilons": [8]}, "fraction of 255"),
        ({"images": _image()[:0], "labels": torch.zeros(0, dtype=torch.long)}, "shape"),
        ({"images": _image()[0]}, "shape"),
        ({"images": _image() + 2}, "range from 2 to 2"),
        ({"images": _image() - 0.1}, "range from -0.1"),
        ({"images": _image() * float("nan")}, "pixels that are NaN"),
        ({"images": _image(dtype=torch.int32)}, "dtype"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "labels have shape"),
        ({"labels": torch.zeros(2)}, "labels have shape"),
        ({"labels": torch.tensor([-1, 0])}, "start at -1, .* or give labels . 1 if -1 is the first class"),
        ({"labels": torch.tensor([10, 0])}, "go up to 10"),
        ({"batch_size": 0}, "batch size"),
        ({"model": nn.Identity()}, "output of shape"),
    ],
)
def test_bad_input_is_one_sentence(plain_model: nn.Module, changes: dict, message: str) -> None:
    arguments = {
        "model": plain_model, "images": _image(), "labels": torch.tensor([0, 9]), "epsilons": [0.1], **changes
    }  # fmt: skip
    with pytest.raises(IbrobustError, match=message):
        fgsm_sweep(**arguments)


class _Noisy(nn.Module):
    """A model with noise on its images, of torch's and NumPy's generators."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        shift = torch.from_numpy(np.random.randn(len(images), 1, 1, 1)).to(images)
        return self.model(images + 0.2 * torch.randn_like(images) + 0.2 * shift)


def test_the_sweep_of_a_random_model_is_an_upper_bound(plain_model: nn.Module, test_data: Data) -> None:
    images, labels = test_data[0][:20], test_data[1][:20]
    assert fgsm_sweep(_Noisy(plain_model), images, labels, [0.1]).flags == (ONE_DRAW,)
    assert fgsm_sweep(plain_model, images, labels, [0.1]).flags == ()


def test_the_sweep_of_a_random_model_depends_on_the_seed_alone(plain_model: nn.Module, test_data: Data) -> None:
    def sweep(seed: int) -> SweepResult:
        np.random.seed(torch.randint(100, ()).item())  # the caller's draws differ from call to call
        return fgsm_sweep(_Noisy(plain_model), *test_data, [0.02, 0.04], batch_size=100, seed=seed)

    with torch.random.fork_rng():
        torch.manual_seed(1)
        one, same, other = sweep(0), sweep(0), sweep(1)
    assert one == same
    assert one.correct != other.correct


def test_each_batch_of_a_random_model_has_its_own_draws() -> None:
    """With one draw for all 20 batches of two equal images, 0, 20 or 40 are correct."""
    images, labels = torch.full((40, 1, 1, 1), 0.5), torch.zeros(40, dtype=torch.long)
    sweeps = [fgsm_sweep(NoisyPixel(1.0), images, labels, [0.0], batch_size=2, seed=seed) for seed in range(6)]
    assert not {sweep.clean_correct for sweep in sweeps} <= {0, 20, 40}


class _Autocast(nn.Module):
    """A float32 model that computes in float16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return self.model(images)


class _Faint(nn.Module):
    """Images (B, 3, 16, 16) -> logits (B, 2) whose gradient is near float16's smallest number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[1e-6], [-1e-6]]).expand_as(self.layer.weight))

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("wrap", [lambda model: model.half(), _Autocast])
def test_a_large_batch_hides_no_gradient_of_a_model_in_half_precision(wrap, test_data: Data) -> None:
    images, labels = test_data[0][:100], torch.zeros(100, dtype=torch.long)
    sweeps = [fgsm_sweep(wrap(_Faint()), images, labels, [0.1], batch_size=size) for size in (1, 100)]
    assert [sweep.zero_gradient for sweep in sweeps] == [0, 0]
