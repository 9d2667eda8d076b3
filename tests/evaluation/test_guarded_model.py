"""Any module meets the evaluation through one guard: the numbers are those of the plain model that it amounts to."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust import two_logits
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.losses import LOSSES
from ibrobust.evaluation.attacks.pgd import loss_gradient, pgd
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.audit import audit
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.model_state import evaluation_mode
from ibrobust.evaluation.sweep import FGSMSweep, fgsm_sweep

pytestmark = pytest.mark.usefixtures("light_audits")

EPSILON = 8 / 255
IMAGES = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ATTACKS = ["FGSM", "PGD:steps=3", "GN", "MIFGSM:steps=3", "Square:n_queries=20", "AutoAttack:n_iter=2,n_queries=10"]


def linear(classes: int = 10) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, classes)).eval()


LABELS = linear()(IMAGES).argmax(dim=1)


class Wrapped(nn.Module):
    """`linear()` behind `enter`, and before `leave`."""

    def __init__(
        self, enter: Callable[[Tensor], Tensor] | None = None, leave: Callable[[Tensor], Tensor] | None = None
    ):
        super().__init__()
        self.net, self.enter, self.leave = linear(), enter, leave

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(self.enter(images) if self.enter else images)
        return self.leave(logits) if self.leave else logits


def counts(model: nn.Module, images: Tensor = IMAGES, attack: str = "PGD:steps=3") -> tuple[object, ...]:
    sweep = fgsm_sweep(model, images.clone(), LABELS, [2 / 255, EPSILON])
    (result,) = run_attacks(model, images.clone(), LABELS, attacks=[attack], epsilons=[EPSILON])
    return sweep, result.clean_correct, result.attacked_correct


# Models that work in place


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_that_works_in_place_changes_no_image_and_no_count(attack: str) -> None:
    mine = IMAGES.clone()
    inplace = Wrapped(lambda x: x.sub_(0.5).div_(0.25))
    found = run_attacks(inplace, mine, LABELS, attacks=[attack], epsilons=[2 / 255, EPSILON])
    assert torch.equal(mine, IMAGES)
    plain = Wrapped(lambda x: (x - 0.5) / 0.25)
    assert found == run_attacks(plain, IMAGES.clone(), LABELS, attacks=[attack], epsilons=[2 / 255, EPSILON])


def test_a_sweep_and_an_audit_of_a_model_that_works_in_place_are_those_of_its_twin() -> None:
    mine = IMAGES.clone()
    inplace, plain = Wrapped(lambda x: x.clamp_(0.2, 0.8)), Wrapped(lambda x: x.clamp(0.2, 0.8))
    assert fgsm_sweep(inplace, mine, LABELS, [EPSILON]) == fgsm_sweep(plain, IMAGES.clone(), LABELS, [EPSILON])
    reports = [audit(model, mine, LABELS, epsilon=EPSILON, quick=True) for model in (inplace, plain)]
    assert reports[0] == reports[1]
    assert torch.equal(mine, IMAGES)


def test_logits_that_a_model_writes_into_a_buffer_of_its_own_are_kept() -> None:
    buffer = torch.zeros(40, 10)
    model = guard(Wrapped(leave=lambda z: buffer[: len(z)].copy_(z.detach())))
    first = model(IMAGES)
    model(1 - IMAGES)
    assert torch.equal(first, linear()(IMAGES))


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_attacked_by_epsilon_and_not_by_its_own_grid(dtype: torch.dtype) -> None:
    epsilon, seen = 2 / 255, []
    model = linear().to(dtype)
    guarded = guard(model)
    gradient, _ = FGSMSweep(guarded, [epsilon]).gradient(IMAGES, LABELS)
    moved = FGSMSweep(guarded, [epsilon]).perturb(IMAGES, gradient, epsilon)
    assert gradient.dtype == moved.dtype == torch.float32
    assert float((moved - IMAGES).abs().max()) <= epsilon + 1e-7
    # The sweep's count is that of those very images, rounded once, as the model itself rounds them.
    seen = (model(moved.to(dtype)).float().argmax(dim=1) == LABELS).sum()
    assert fgsm_sweep(model, IMAGES, LABELS, [epsilon]).correct == (int(seen),)


@pytest.mark.parametrize(
    "model",
    [
        linear().bfloat16(),
        linear().half(),
        linear().double(),
        Wrapped(lambda x: x.bfloat16().float()),
        Wrapped(leave=lambda z: z.double()),
        Wrapped(leave=lambda z: z.bfloat16()),
        Wrapped(leave=lambda z: (1000 * z).long()),
    ],
    ids=["bfloat16", "float16", "float64", "rounds its images", "float64 out", "bfloat16 out", "integers out"],
)
def test_every_attack_runs_in_any_precision(model: nn.Module) -> None:
    assert fgsm_sweep(model, IMAGES, LABELS, [EPSILON]).total == 40
    for result in run_attacks(model, IMAGES, LABELS, attacks=ATTACKS, epsilons=[EPSILON]):
        assert len(result.attacked_correct) == 40


def test_one_parameter_of_another_dtype_decides_nothing() -> None:
    model = linear()
    expected = counts(model)
    model.temperature = nn.Parameter(torch.ones(1, dtype=torch.float16))
    model._parameters = dict(sorted(model._parameters.items()))
    assert counts(model) == expected


def test_autocast_inside_a_model_gives_the_sweep_and_pgd_the_same_fgsm() -> None:
    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear()

        def forward(self, images: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.net(images)

    swept, _, attacked = counts(Autocast(), attack="FGSM")
    assert swept.correct[1] == sum(attacked) < 40  # type: ignore[attr-defined]
    assert audit(Autocast(), IMAGES, LABELS, epsilon=EPSILON, quick=True).n == 40


# Gradients that are cut


def through_numpy(images: Tensor) -> Tensor:
    return torch.from_numpy(images.detach().numpy() * 1.0)


def through_numpy_without_detach(images: Tensor) -> Tensor:
    return torch.from_numpy(images.numpy() * 1.0)


class Inference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def forward(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.net(images)


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: object, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> None:
        return None


class OwnGraph(nn.Module):
    """Its logits have a graph, which does not reach the images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.detach().requires_grad_(images.requires_grad))


CUT = {
    "detach": Wrapped(lambda x: x.detach()),
    "numpy": Wrapped(through_numpy),
    "numpy without detach": Wrapped(through_numpy_without_detach),
    "inference mode": Inference(),
    "graph of its own": OwnGraph(),
    "graph without an end": Wrapped(lambda x: NoGradient.apply(x)),
}


@pytest.mark.parametrize("how", CUT)
def test_a_cut_gradient_is_a_zero_one_for_the_sweep_and_pgd(how: str) -> None:
    result = fgsm_sweep(CUT[how], IMAGES, LABELS, [EPSILON])
    assert result.zero_gradient_share == 1.0
    assert result.correct == (40,)
    gradient, _, _ = loss_gradient(CUT[how], IMAGES, LABELS, LOSSES["margin"])
    assert torch.equal(gradient, torch.zeros_like(IMAGES))
    assert torch.equal(pgd(CUT[how], IMAGES, LABELS, epsilon=EPSILON, steps=2).last, IMAGES)


@pytest.mark.parametrize("how", CUT)
def test_every_attack_runs_on_a_model_without_a_gradient(how: str) -> None:
    for result in run_attacks(CUT[how], IMAGES, LABELS, attacks=ATTACKS, epsilons=[EPSILON]):
        assert result.nonfinite_gradient == 0


def test_an_audit_calls_a_cut_gradient_zero() -> None:
    report = audit(CUT["numpy"], IMAGES, LABELS, epsilon=EPSILON, quick=True)
    assert {check.name: check.value for check in report.checks}["zero_gradient_margin"] == 1.0
    assert report.gradient == "vanishing"


def test_an_error_of_the_forward_pass_is_not_taken_for_a_cut_gradient() -> None:
    def fail(images: Tensor) -> Tensor:
        if images.requires_grad:
            raise RuntimeError("out of memory")
        return images

    with pytest.raises(IbrobustError, match="out of memory"):
        fgsm_sweep(Wrapped(fail), IMAGES, LABELS, [EPSILON])


class WithoutBackward(torch.autograd.Function):
    @staticmethod
    def forward(context: object, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        raise NotImplementedError("no backward pass here")


@pytest.mark.parametrize("attack", ["FGSM", "PGD", "MIFGSM", "AutoAttack"])
def test_a_backward_pass_that_fails_is_one_sentence(attack: str) -> None:
    model = Wrapped(WithoutBackward.apply)
    with pytest.raises(IbrobustError, match="no backward pass here"):
        run_attacks(model, IMAGES, LABELS, attacks=attack, epsilons=EPSILON)
    with pytest.raises(IbrobustError, match="gradient cannot be taken"):
        fgsm_sweep(model, IMAGES, LABELS, EPSILON)


# Batches


def test_no_model_sees_an_empty_batch() -> None:
    def refuse_none(images: Tensor) -> Tensor:
        return images.view(images.size(0), -1).view_as(images)  # torch cannot tell -1 of nothing

    model = guard(Wrapped(refuse_none))
    model(IMAGES)
    nothing = IMAGES[:0].clone().requires_grad_()
    logits = model(nothing)
    assert logits.shape == (0, 10)
    assert torch.autograd.grad(logits.sum(), nothing)[0].shape == nothing.shape
    for labels in (LABELS, (LABELS + 1) % 10):  # all images broken, and all wrong
        assert audit(Wrapped(refuse_none), IMAGES[:8], labels[:8], epsilon=EPSILON, quick=True).n == 8


def batch_normalised() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(32, track_running_stats=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), norm, nn.Linear(32, 10)).eval()


def test_a_model_that_takes_no_single_image_gets_it_twice() -> None:
    with torch.random.fork_rng():
        model = batch_normalised()
    guarded = guard(model)
    assert torch.equal(guarded(IMAGES[:1]), model(IMAGES[:1].expand(2, -1, -1, -1))[:1])
    labels = model(IMAGES).argmax(dim=1)
    assert fgsm_sweep(model, IMAGES[:39], labels[:39], [EPSILON], batch_size=2).total == 39
    report = audit(model, IMAGES, labels, epsilon=EPSILON, quick=True)
    assert "batch_invariance" in [check.name for check in report.failed]


def test_one_image_can_be_swept_and_attacked() -> None:
    assert fgsm_sweep(linear(), IMAGES[:1], LABELS[:1], [0.0, 1.0]).correct == (1, 0)
    for result in run_attacks(linear(), IMAGES[:1], LABELS[:1], attacks=ATTACKS, epsilons=[EPSILON]):
        assert len(result.clean_correct) == 1


def test_a_batch_that_the_model_cannot_take_is_one_sentence() -> None:
    with pytest.raises(IbrobustError, match=r"images of shape \(1, 3, 9, 8\).*mat1 and mat2"):
        fgsm_sweep(linear(), torch.zeros(2, 3, 9, 8), LABELS[:2], [EPSILON])


# Compiled forms


class NarrowMemory(nn.Module):
    """A buffer in half precision beside float32 weights; images in float32 do not fit into memory."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(1))
        self.register_buffer("scale", torch.ones(1, dtype=torch.float16))

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.float32:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return images.flatten(1)[:, :2] * self.scale


def test_too_little_memory_does_not_lower_the_precision() -> None:
    with pytest.raises(IbrobustError, match="out of memory"):
        guard(NarrowMemory())(IMAGES)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile looks at what is no leaf
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("form", ["scripted", "frozen", "traced", "exported", "exported for two or more", "compiled"])
def test_a_compiled_form_has_the_numbers_of_its_module(form: str) -> None:
    def export(least: int) -> nn.Module:
        size = torch.export.Dim("b", min=least, max=64)
        return torch.export.export(linear(), (IMAGES,), dynamic_shapes=({0: size},)).module()

    make = {
        "scripted": lambda: torch.jit.script(linear()),
        "frozen": lambda: torch.jit.freeze(torch.jit.script(linear())),
        "traced": lambda: torch.jit.trace(linear(), IMAGES),
        "exported": lambda: export(1),
        "exported for two or more": lambda: export(2),
        "compiled": lambda: torch.compile(linear(), backend="eager"),
    }
    model = make[form]()
    assert counts(model) == counts(linear())
    report = audit(model, IMAGES, LABELS, epsilon=EPSILON, quick=True)
    assert report == audit(linear(), IMAGES, LABELS, epsilon=EPSILON, quick=True)


def test_an_export_of_one_batch_size_is_refused_in_a_sentence() -> None:
    model = torch.export.export(linear(), (IMAGES,)).module()
    with pytest.raises(IbrobustError, match="cannot classify images of shape"):
        fgsm_sweep(model, IMAGES, LABELS, [EPSILON])


def test_images_made_in_inference_mode_are_as_good_as_others() -> None:
    model = linear()
    with torch.inference_mode():
        images, labels = IMAGES.clone(), LABELS.clone()
        within = fgsm_sweep(model, images, labels, [EPSILON])
    expected = fgsm_sweep(model, IMAGES, LABELS, [EPSILON])
    assert within == fgsm_sweep(model, images, labels, [EPSILON]) == expected
    assert audit(model, images, labels, epsilon=EPSILON, quick=True).n == 40


def test_a_model_made_in_inference_mode_is_refused_with_the_remedy() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with pytest.raises(IbrobustError, match="deepcopy"):
        fgsm_sweep(model, IMAGES, LABELS, [EPSILON])
    assert fgsm_sweep(copy.deepcopy(model), IMAGES, LABELS, [EPSILON]).total == 40


def test_a_model_that_is_not_initialised_is_refused() -> None:
    with pytest.raises(IbrobustError, match="not initialised"):
        fgsm_sweep(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), IMAGES, LABELS, EPSILON)


def test_a_function_is_refused() -> None:
    with pytest.raises(IbrobustError, match="is a function"):
        fgsm_sweep(lambda x: x, IMAGES, LABELS, [EPSILON])  # type: ignore[arg-type]


# Modes


def test_the_model_in_a_guard_is_evaluated_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Flatten()).train()
    with evaluation_mode(guard(model)):
        assert not model.training
        assert not model[0].training
    assert model.training
    assert model[0].training


class Merging(nn.Module):
    """A low-rank adaptation, which is added to the weights in evaluation mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.change = linear(), nn.Parameter(torch.full((10, 192), 0.1))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if self.merged == mode:
            self.base[1].weight.data += -self.change.data if mode else self.change.data
            self.merged = not mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits = self.base(images)
        return logits if self.merged else logits + images.flatten(1) @ self.change.T


@pytest.mark.parametrize("training", [True, False])
def test_what_a_module_does_in_evaluation_mode_is_undone(training: bool) -> None:
    model = nn.Sequential(Merging(), nn.Dropout()).train(training)
    model[1].train(not training)
    with evaluation_mode(model):
        assert model[0].merged
        assert not model[1].training
    assert model[0].merged == (not training)
    assert [module.training for module in model] == [training, not training]


def test_attack_libraries_do_not_change_the_models_mode() -> None:
    model = nn.Sequential(linear(), nn.Dropout(0.5))
    model.train()
    model[0].eval()
    run_attacks(model, IMAGES, LABELS, attacks=["MIFGSM:steps=2"], epsilons=[EPSILON])
    assert [module.training for module in (model, model[0], model[1])] == [True, False, True]


# One logit


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
def test_a_single_logit_is_refused_with_the_remedy(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(linear(1), nn.Flatten(), nn.Identity())
    flat = nn.Sequential(model, nn.Unflatten(1, (1,)), nn.Flatten(0)) if len(shape) == 1 else model
    for call in (
        lambda: fgsm_sweep(flat, IMAGES, 0 * LABELS, [EPSILON]),
        lambda: run_attacks(flat, IMAGES, 0 * LABELS, attacks=["PGD"], epsilons=[EPSILON]),
        lambda: audit(flat, IMAGES, 0 * LABELS, epsilon=EPSILON),
    ):
        with pytest.raises(IbrobustError, match="two_logits"):
            call()


@pytest.mark.parametrize("flat", [True, False])
def test_two_logits_have_the_binary_cross_entropy_and_the_accuracy_of_the_one(flat: bool) -> None:
    one = linear(1)
    model = two_logits(nn.Sequential(one, nn.Flatten(0)) if flat else one)
    labels = (LABELS % 2).long()
    ours = F.cross_entropy(model(IMAGES), labels)
    assert torch.allclose(ours, F.binary_cross_entropy_with_logits(one(IMAGES)[:, 0], labels.float()))
    right = ((one(IMAGES)[:, 0] > 0).long() == labels).sum()
    assert fgsm_sweep(model, IMAGES, labels, [0.0]).correct == (int(right),)


# Logits that are no numbers, in sweeps long enough for the screening


@pytest.mark.parametrize(("value", "share"), [(float("-inf"), 1.0), (float("nan"), 0.1), (float("inf"), 0.1)])
def test_a_long_sweep_of_logits_that_are_not_finite_has_the_counts_of_an_unscreened_one(value, share) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            logits = self.head(self.conv(images).mean((2, 3)))
            ruled_out = F.one_hot(torch.full((len(images),), 4), 5).bool() & (images[:, 0, 0, :1] <= share)
            return logits.masked_fill(ruled_out, value)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images, labels = Odd(), torch.rand(600, 3, 8, 8), torch.randint(0, 4, (600,))
    epsilons = [0.01, 0.02, 0.03, 0.04]
    screened = fgsm_sweep(model, images, labels, epsilons)
    assert screened == fgsm_sweep(model, images, labels, epsilons, screen=False)


# Forms of the arguments


def test_arrays_lists_and_text_are_taken_for_what_they_say() -> None:
    expected = fgsm_sweep(linear(), IMAGES, LABELS, [EPSILON])
    array, whole = IMAGES.numpy(), LABELS.numpy()
    for images, labels, epsilons in (
        (array, whole, [EPSILON]),
        (array[::-1][::-1], whole.astype(np.uint16), "8/255"),
        (list(IMAGES), LABELS.tolist(), EPSILON),
        (list(array), list(LABELS), np.array([EPSILON])),
        (IMAGES.clone().requires_grad_(), LABELS.to(torch.uint16), torch.tensor([EPSILON], dtype=torch.float64)),
    ):
        assert fgsm_sweep(linear(), images, labels, epsilons, batch_size=250.0) == expected
    (attacked,) = run_attacks(linear(), array, whole, attacks="FGSM", epsilons="8/255", batch_size=np.int64(250))
    assert sum(attacked.attacked_correct) == expected.correct[0]
    assert audit(linear(), array, LABELS.tolist(), epsilon="8/255", quick=True).fgsm_correct == expected.correct[0]


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (["a", "b"], [0, 1], {}, "images cannot be converted to a tensor"),
        ([IMAGES[0], IMAGES[1, :, :4]], [0, 1], {}, "images cannot be converted to a tensor"),
        (IMAGES[:2], [0.0, 1.0], {}, "integers are needed"),
        (IMAGES[:2], torch.eye(10)[:2].long(), {}, "of one-hot labels give labels.argmax"),
        (255 * IMAGES[:2], [0, 1], {}, "values in .* needed. Divide them by 255"),
        (IMAGES[:2] - 0.5, [0, 1], {}, "Put a normalisation inside the model"),
        (IMAGES[:2], ["cat", "dog"], {}, "labels cannot be converted to a tensor"),
        (IMAGES[:2], [0, 1], {"batch_size": 2.5}, "batch size is 2.5"),
        (IMAGES[:2], [0, 1], {"batch_size": True}, "batch size is True"),
        (IMAGES[:2], [0, 1], {"epsilons": ["eight"]}, "'eight' is not a number"),
        (IMAGES[:2], [0, 1], {"epsilons": None}, "None is not a number"),
    ],
)
def test_what_is_ambiguous_is_refused_in_a_sentence(images, labels, options, message) -> None:
    with pytest.raises(IbrobustError, match=message):
        fgsm_sweep(linear(), images, labels, **{"epsilons": [EPSILON], **options})


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        (Wrapped(leave=lambda z: (z, z)), LABELS, "type tuple .* a module whose forward pass returns the logits alone"),
        (Wrapped(leave=lambda z: z.argmax(dim=1)), LABELS, "predicted classes, return the logits before the argmax"),
        (Wrapped(leave=lambda z: z[:, 0]), LABELS, "two_logits"),
        (linear(), torch.tensor([1, 10] * 20), "10 classes: classes are counted from 0, so give labels - 1"),
        (linear(), torch.tensor([0, 10] * 20), "10 classes: give it images of its own data set"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 10)), LABELS, "another size, give ibrobust.resized"),
    ],
)
def test_the_remedy_fits_what_is_wrong_with_the_output_or_the_labels(model, labels, message) -> None:
    with pytest.raises(IbrobustError, match=message):
        fgsm_sweep(model, IMAGES, labels, [EPSILON])


def test_a_model_that_drops_the_dimension_of_a_single_image_is_classified() -> None:
    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 10, 8)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images).squeeze()

    torch.manual_seed(0)
    model, images = Squeezing(), torch.rand(3, 1, 8, 8)
    labels = model(images).argmax(dim=1)
    assert fgsm_sweep(model, images, labels, 0.0, batch_size=2).correct == (3,)


def test_a_callers_autocast_changes_no_number() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 3))
    images = torch.rand(60, 1, 8, 8)
    seen = []
    model[1].register_forward_hook(lambda *given: seen.append(given[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fgsm_sweep(model, images, model(images).argmax(dim=1), 0.05)
    assert set(seen[1:]) == {torch.float32}
