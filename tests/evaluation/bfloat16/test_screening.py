"""Counts of a sweep screened in bfloat16 equal those of the model itself, whatever the model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.evaluation import sweep
from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.bfloat16 import convolution as bfloat16_convolution
from ibrobust.evaluation.bfloat16 import copy as low_precision
from ibrobust.evaluation.bfloat16 import screening
from ibrobust.evaluation.bfloat16 import speed as bfloat16_speed
from ibrobust.evaluation.bfloat16.copy import low_precision_copy
from ibrobust.evaluation.bfloat16.screening import Screening
from ibrobust.evaluation.sweep import FGSMSweep, fgsm_sweep

EPSILONS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
Data = tuple[Tensor, Tensor]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Screen whatever the device is fast at, and few images too."""
    monkeypatch.setattr(bfloat16_speed, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(bfloat16_speed, "_gain_of_a_convolution", lambda: 2.0)
    monkeypatch.setattr(screening, "LEAST_EVIDENCE", 100)
    monkeypatch.setattr(screening, "LEAST_WORK", 1)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Screening | None]:
    """The screenings of the sweeps in a test, None where the model was evaluated as it is."""
    seen: list[Screening | None] = []

    def start(*arguments: Tensor) -> Screening | None:
        seen.append(screening.start_screening(*arguments))
        return seen[-1]

    monkeypatch.setattr(sweep, "start_screening", start)
    return seen


class Residual(nn.Module):
    """Stem, a residual block with a projection, pooling, and a head: what a network of this field is made of."""

    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2, bias=False), nn.BatchNorm2d(16))
        self.head = head if head is not None else nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem((images - 0.5) / 0.25)))
        out = self.second(F.relu(self.first_norm(self.first(x))))
        out = F.relu(out + self.shortcut(x))
        return self.head(out.mean(dim=(2, 3)))


def _with_statistics(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the model in evaluation mode, after a pass that sets its batch statistics."""
    with torch.no_grad():
        for _ in range(5):
            model.train()(images[:100])
    return model.eval().requires_grad_(False)


@pytest.fixture
def residual(test_data: Data) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _with_statistics(Residual(), test_data[0])


class Difference(nn.Module):
    """Two logits, opposite differences of features that hardly differ: in bfloat16 nothing of them is left."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.large = nn.Conv2d(8, 2, 1, bias=False)
        self.register_buffer("centre", torch.zeros(1, 1))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(8, 3, 3, 3, generator=generator))
            row = torch.rand(8, generator=generator) + 1
            self.large.weight[0] = row[:, None, None]
            self.large.weight[1] = (row + 3e-3 * torch.randn(8, generator=generator))[:, None, None]

    def forward(self, images: Tensor) -> Tensor:
        sums = self.large(F.relu(self.conv(images))).mean(dim=(2, 3))  # (B, 2), nearly equal and large
        difference = (sums[:, 0] - sums[:, 1])[:, None] - self.centre
        return torch.cat([difference, -difference], dim=1)


def _both(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 60) -> tuple:
    screened = fgsm_sweep(model, images, labels, EPSILONS, batch_size=batch_size)
    plain = fgsm_sweep(model, images, labels, EPSILONS, batch_size=batch_size, screen=False)
    assert plain.settled_in_bfloat16 == 0
    return screened, plain


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("batch_size", [50, 120, 360])
@pytest.mark.parametrize("name", ["plain_model", "robust_model", "residual"])
def test_counts_are_those_of_the_model(
    name: str, batch_size: int, test_data: Data, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    screened, plain = _both(model, *test_data, batch_size=batch_size)
    assert screened == plain
    assert screened.settled_in_bfloat16 > 0


@pytest.mark.usefixtures("always")
def test_each_classification_is_the_models(plain_model: nn.Module, test_data: Data) -> None:
    """Not the counts alone, where errors of either sign could cancel."""
    images, labels = test_data
    model = plain_model.eval().requires_grad_(False)
    lowered = low_precision_copy(model, images[:1])
    noise = [torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    correct = torch.zeros(4, len(images), dtype=torch.bool)
    found = Screening(model, lowered, correct)
    with torch.no_grad():
        assert found.calibrate(images, labels, model(images))
        found.settle(0, labels, lambda row: images + 0.2 * row * noise[row], torch.zeros(len(images), dtype=torch.bool))
        for row in range(4):
            assert torch.equal(correct[row], is_correct(model(images + 0.2 * row * noise[row]), labels))
    assert found.settled_by_copy > 500


def _between_classes(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images on the lines between pairs of images where the first one's class is about to change, and it."""
    first, second = images, images.flip(0)
    labels = model(first).argmax(dim=1)
    differing = labels != model(second).argmax(dim=1)
    first, second, labels = first[differing], second[differing], labels[differing]
    near, far = torch.zeros(len(first), 1, 1, 1), torch.ones(len(first), 1, 1, 1)
    for _ in range(16):
        middle = (near + far) / 2
        still = (model(first + middle * (second - first)).argmax(dim=1) == labels)[:, None, None, None]
        near, far = torch.where(still, middle, near), torch.where(still, far, middle)
    return first + near * (second - first), labels


@pytest.mark.usefixtures("always")
def test_near_ties_within_the_rounding_error_are_the_models(plain_model: nn.Module, test_data: Data) -> None:
    model = plain_model.eval().requires_grad_(False)
    with torch.no_grad():
        images, labels = _between_classes(model, test_data[0])
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        expected = torch.stack([is_correct(model(images + scale * noise), labels) for scale in (0.0, 1e-4)])
        lowered = low_precision_copy(model, images[:1])
        proposed = torch.stack([lowered.margins(images + scale * noise, labels)[0] > 0 for scale in (0.0, 1e-4)])
        assert (proposed != expected).sum() > 50, "bfloat16 alone makes no mistakes here"
        correct = torch.zeros(2, len(images), dtype=torch.bool)
        found = Screening(model, lowered, correct)
        found.calibrate(test_data[0], test_data[1], model(test_data[0]))
        nothing = torch.zeros(len(images), dtype=torch.bool)
        found.settle(0, labels, lambda row: images + (0.0, 1e-4)[row] * noise, nothing)
    assert torch.equal(correct, expected)


@pytest.mark.usefixtures("always")
def test_exact_ties_are_the_models(residual: nn.Module, test_data: Data) -> None:
    with torch.no_grad():
        residual.head.weight[5] = residual.head.weight[2]
        residual.head.bias[5] = residual.head.bias[2]
    images, labels = test_data[0], torch.where(torch.arange(360) % 2 == 0, 2, 5)
    screened, plain = _both(residual, images, labels)
    assert screened == plain


@pytest.mark.usefixtures("always")
def test_a_model_that_bfloat16_ruins_is_evaluated_itself(test_data: Data, started: list[Screening | None]) -> None:
    model = Difference().eval()
    images = test_data[0]
    with torch.no_grad():
        model.centre.fill_(model(images)[:, 0].median())
        labels = model(images).argmax(dim=1)
    lowered = low_precision_copy(model.requires_grad_(False), images[:1])
    approximate, _, _ = lowered.margins(images, labels)
    with torch.no_grad():
        exact = -margin(model(images), labels)
    assert ((approximate > 0) != (exact > 0)).sum() > 20, "the planted defect is none"
    screened, plain = _both(model, images, labels)
    assert screened == plain
    assert started[0] is not None


@pytest.mark.usefixtures("always")
def test_a_copy_that_goes_wrong_on_attacked_images_only_is_found_out(
    plain_model: nn.Module, test_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With large margins for the wrong answer, which only the images that are audited show."""
    images, labels = test_data
    truly = low_precision.LowPrecisionCopy.margins
    calls = []

    def lying(self: low_precision.LowPrecisionCopy, batch: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        margins, scales, floors = truly(self, batch, targets)
        calls.append(len(batch))
        return (-100 * margins.sign() * scales if len(calls) > 12 else margins), scales, floors

    monkeypatch.setattr(low_precision.LowPrecisionCopy, "margins", lying)
    screened, plain = _both(plain_model, images, labels)
    assert len(calls) > 12
    assert screened == plain


@pytest.mark.usefixtures("always")
def test_an_error_seen_late_unsettles_what_was_settled_early(plain_model: nn.Module, test_data: Data) -> None:
    images, labels = test_data
    model = plain_model.eval().requires_grad_(False)
    lowered = low_precision_copy(model, images[:1])
    correct = torch.zeros(1, len(images), dtype=torch.bool)
    found = Screening(model, lowered, correct)
    with torch.no_grad():
        found.calibrate(images, labels, model(images))
        found.settle(0, labels, lambda _: images, torch.zeros(len(images), dtype=torch.bool))
        settled = found.settled_by_copy
        assert settled > 200
        assert not found.unsettled()
        found._learn(torch.tensor([1e6]), torch.tensor([0.0]), torch.tensor([1.0]))
        assert len(found.unsettled()) == settled
        correct.logical_not_()
        wrong = correct.clone()
        found.settle_again(0, labels, lambda _: images)
        assert not found.unsettled()
        assert torch.equal(correct[0], is_correct(model(images), labels))
    assert int((wrong != correct).sum()) == len(images)


class _Labels(nn.Module):
    """One for the class of a model and zero for the others, with the gradient of the model's logits."""

    def __init__(self, model: nn.Module, leak: float) -> None:
        super().__init__()
        self.model = model
        self.leak = leak

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        labels = (logits == logits.amax(dim=1, keepdim=True)).to(logits.dtype)
        return labels + self.leak * logits.detach() + logits - logits.detach()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("leak", [0.0, 1e-4])
def test_outputs_that_are_constant_in_pieces_are_evaluated_in_the_model(
    leak: float, plain_model: nn.Module, test_data: Data, started: list[Screening | None]
) -> None:
    """Their margins are large up to the edge of a piece, where rounding makes another class of them."""
    screened, plain = _both(_Labels(plain_model, leak), *test_data)
    assert started[0] is not None
    assert screened == plain
    assert screened.settled_in_bfloat16 == 0


@pytest.mark.parametrize(("margin", "believed"), [(0.005, False), (0.02, True)])
def test_a_margin_within_the_rounding_of_the_logits_is_not_believed(margin: float, believed: bool) -> None:
    """Whatever errors were seen: here none, and the copy has every image wrong."""

    class Stub:
        def margins(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return torch.full((40,), -margin), torch.ones(40), torch.full((40,), low_precision.ROUNDING)

    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([margin, 0.0]))
    correct = torch.zeros(1, 41, dtype=torch.bool)
    found = Screening(model, Stub(), correct)
    # From 1 on, since image 0 is audited.
    found.settle(
        1, torch.zeros(40, dtype=torch.long), lambda row: torch.zeros(40, 2), torch.zeros(40, dtype=torch.bool)
    )
    assert found.settled_by_copy == (40 if believed else 0)
    assert correct[0, 1:].all() != believed


def test_where_bfloat16_is_slow_no_copy_is_made(
    plain_model: nn.Module, test_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "LEAST_WORK", 1)
    monkeypatch.setattr(screening, "LEAST_EVIDENCE", 100)
    monkeypatch.setattr(bfloat16_speed, "_gain_of_a_convolution", lambda: 1 / 15)
    monkeypatch.setattr(screening, "low_precision_copy", lambda *arguments: pytest.fail("a copy was made"))
    assert fgsm_sweep(plain_model, *test_data, EPSILONS, batch_size=120).settled_in_bfloat16 == 0


class _Branching(Residual):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 2 if images.mean() > 0.9 else images)


class _Counting(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(images)


class _Remembering(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.mean.lerp_(images.mean(), 0.1)
        return super().forward(images)


class _Noisy(Residual):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 0.1 * torch.randn_like(images))


class _BatchDependent(Residual):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits - 3 * logits.mean(dim=0)


class _Hooked(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.stem.register_forward_hook(lambda module, inputs, output: output * 2)


class _NoConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "kind", [_Branching, _Counting, _Remembering, _Noisy, _BatchDependent, _Hooked, _NoConvolution]
)
def test_models_that_are_no_fixed_function_of_an_image_are_evaluated_as_they_are(
    kind: type[nn.Module], test_data: Data, started: list[Screening | None]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _with_statistics(kind(), test_data[0])
        results = []
        for screen in (True, False):
            torch.manual_seed(3)
            results.append(fgsm_sweep(copy.deepcopy(model), *test_data, EPSILONS, batch_size=120, screen=screen))
    assert started == [None]
    if kind is not _Noisy:  # the trial draws numbers
        assert results[0] == results[1]


@pytest.mark.usefixtures("always")
def test_images_without_a_finite_gradient_are_the_models(
    plain_model: nn.Module, test_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pixels are NaN, and a ReLU built into a convolution may make 0 of that."""
    truly = FGSMSweep.gradient

    def broken(self: FGSMSweep, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        gradient, logits = truly(self, images, labels)
        gradient[::3] = torch.nan
        return gradient, logits

    monkeypatch.setattr(FGSMSweep, "gradient", broken)
    screened, plain = _both(plain_model, *test_data)
    assert screened == plain
    assert screened.nonfinite_gradient == 120
    assert 0 < screened.settled_in_bfloat16 <= 240 * len(EPSILONS)


@pytest.mark.usefixtures("always")
def test_the_model_stays_as_it_was(plain_model: nn.Module, test_data: Data) -> None:
    plain_model.train()
    before = {name: value.clone() for name, value in plain_model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in plain_model.named_modules()}
    rng = torch.get_rng_state()
    assert fgsm_sweep(plain_model, *test_data, EPSILONS, batch_size=120).settled_in_bfloat16 > 0
    assert all(torch.equal(value, before[name]) for name, value in plain_model.state_dict().items())
    assert {name: set(vars(module)) for name, module in plain_model.named_modules()} == attributes
    assert all(module.training for module in plain_model.modules())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("fused", [True, False])
def test_the_copy_is_the_model_but_for_rounding(
    residual: nn.Module, test_data: Data, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused and not bfloat16_convolution.fused_convolutions_work():
        pytest.skip("this PyTorch has no convolutions with ReLU built in")
    monkeypatch.setattr(bfloat16_convolution, "fused_convolutions_work", lambda: fused)
    images, labels = test_data
    lowered = low_precision_copy(residual, images[:1])
    margins, scales, _ = lowered.margins(images, labels)
    with torch.no_grad():
        errors = (margins + margin(residual(images), labels)).abs()
    assert errors.max() > 0
    assert (errors / scales).max() < 0.05
    kinds = [type(module).__name__ for module in lowered._graph.modules()]
    assert kinds.count("BFloat16Convolution") == 4
    assert not [node for node in lowered._graph.graph.nodes if "norm" in str(node.target)]


def test_few_images_are_not_worth_a_copy(plain_model: nn.Module, test_data: Data) -> None:
    assert screening.start_screening(plain_model, test_data[0], torch.zeros(360, 10), torch.zeros(5, 360)) is None
