"""The gradient past rounding, comparisons, votes, `detach` and `no_grad`, against that of the uncut function."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from awkward_models import Hidden
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.transforms.functional import to_pil_image, to_tensor

from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.straight_through import Cuts, StraightThrough, gradient_cuts
from ibrobust.evaluation.worst_case_attack import worst_case_attack

IMAGES = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(48, 5, generator=torch.Generator().manual_seed(1))
BALL = Ball("Linf", 0.1)
SHARES = torch.tensor([3.0, -1.0, 2.0, 0.5, -2.0])


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def linear(images: Tensor) -> Tensor:
    return images.flatten(1) @ WEIGHT


def rounded_in_place(images: Tensor) -> Tensor:
    levels = images * 15
    levels.round_()
    return linear(levels / 15)


def without_grad(images: Tensor) -> Tensor:
    with torch.no_grad():
        doubled = 2.0 * images
    return linear(doubled)


@torch.no_grad()
def all_without_grad(images: Tensor) -> Tensor:
    return linear(images)


def thermometer(images: Tensor) -> Tensor:
    return linear(torch.stack([(images > (level + 0.5) / 10).float() for level in range(10)]).mean(dim=0))


CUT = {
    "round": (lambda x: linear((15 * x).round() / 15), "round"),
    "round in place": (rounded_in_place, "round"),
    "floor": (lambda x: linear(torch.floor(15 * x) / 15), "floor"),
    "quotient": (lambda x: linear(torch.div(15 * x, 1.0, rounding_mode="floor") / 15), "a rounded quotient"),
    "levels of levels": (
        lambda x: linear(((255 * x).byte() // 16).float() * 16 / 255),
        "a cast to integers, a rounded quotient",
    ),
    "quotient of detached": (lambda x: linear(255 * x.detach() // 16 * 16 / 255), "detach, a rounded quotient"),
    "type of another": (
        lambda x: linear((255 * x).type_as(torch.zeros(1, dtype=torch.uint8)).float() / 255),
        "a cast to integers",
    ),
    "not": (lambda x: linear(1.0 - (~(x > 0.5)).float()), "a comparison"),
    "another comparison": (lambda x: linear(torch.greater_equal(x, 0.5).float()), "a comparison"),
    "sign": (lambda x: linear(torch.sign(x - 0.5)), "sign"),
    "8-bit levels": (lambda x: linear((255 * x).to(torch.uint8).float() / 255), "a cast to integers"),
    "8-bit levels, changed": (lambda x: linear((255 * x).byte().flip(3).float().flip(3) / 255), "a cast to integers"),
    "comparison": (lambda x: linear((x > 0.5).float()), "a comparison"),
    "comparison of levels": (
        lambda x: linear(((255 * x).byte() > 127).float() / 255),
        "a cast to integers, a comparison",
    ),
    "comparison the other way": (lambda x: linear(1.0 - (x < 0.5).float()), "a comparison"),
    "thermometer": (thermometer, "a comparison"),
    "where": (lambda x: linear(torch.where(x > 0.5, 1.0, 0.0)), "a comparison"),
    "detach": (lambda x: linear(x.detach()), "detach"),
    "data": (lambda x: linear(x.data), "detach"),
    "no_grad": (lambda x: without_grad(x / 2), "no_grad"),
    "no_grad around all": (all_without_grad, "no_grad"),
    "a part": (lambda x: linear(x.detach() - 0.1 * x) / 0.9, "detach"),
}

OWN = {
    "linear": linear,
    "ReLU": lambda x: linear(F.relu(x - 0.5)),
    "where": lambda x: linear(torch.where(x > 0.5, x, 0.0)),
    "mask": lambda x: linear(x.masked_fill(x < 0.3, 0.0)),
    "a comparison of bits": lambda x: linear(x) + ((x > 0.5) == (x > 0.7)).float().flatten(1)[:, :5],
    "bits of levels": lambda x: linear(x) + ((255 * x).byte() & 15).flatten(1)[:, :5],
    "a leaky step": lambda x: linear(torch.where(x > 0.5, x, 0.1 * x)),
    "an index": lambda x: linear(x) + WEIGHT[(40 * x[:, 0, 0, 0]).long()],
    "a straight-through quantiser": lambda x: linear(x + ((15 * x).round() / 15 - x).detach()),
    "the gradient of an inner step": lambda x: linear(x + _inner_step(x)),
}


def _inner_step(images: Tensor) -> Tensor:
    with torch.enable_grad():
        points = images.detach().requires_grad_()
        (step,) = torch.autograd.grad(linear(points).square().sum(), points)
    return 0.01 * step


def gradient(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the logits of `IMAGES` and the gradient of their sum with unequal shares."""
    points = IMAGES.clone().requires_grad_()
    logits = model(points)
    return logits.detach(), torch.autograd.grad((logits * SHARES).sum(), points)[0]


@pytest.mark.parametrize("name", CUT)
def test_a_cut_gradient_is_that_of_the_function_without_the_cut(name):
    function, words = CUT[name]
    model = guard(Function(function))
    logits, through = gradient(StraightThrough(model))
    assert torch.equal(logits, model(IMAGES))
    torch.testing.assert_close(through, gradient(guard(Function(linear)))[1])
    assert ", ".join(gradient_cuts(model, IMAGES, BALL).operations) == words


@pytest.mark.parametrize("name", OWN)
def test_a_gradient_of_the_models_own_stays(name):
    model = guard(Function(OWN[name]))
    (logits, through), (own_logits, own) = gradient(StraightThrough(model)), gradient(model)
    assert torch.equal(logits, own_logits)
    torch.testing.assert_close(through, own)
    assert not gradient_cuts(model, IMAGES, BALL).operations


def test_a_mask_that_multiplies_a_gradient_is_no_cut():
    model = guard(Function(lambda x: linear((x - 0.5) * (x > 0.5).float())))
    assert torch.equal(gradient(StraightThrough(model))[0], model(IMAGES))
    assert not gradient_cuts(model, IMAGES, Ball("Linf", 0.02)).operations


VOTES = {
    "argmax": lambda scores: F.one_hot(scores.argmax(dim=1), 5),
    "argmax in floats": lambda scores: F.one_hot(scores.argmax(1), 5).float(),
    "max": lambda scores: F.one_hot(scores.max(dim=1).indices, 5),
    "axis": lambda scores: F.one_hot(scores.argmax(axis=1), 5),
    "a table": lambda scores: torch.eye(5)[scores.argmax(dim=1)],
    "argmin": lambda scores: torch.eye(5)[(-scores).argmin(dim=1)],
    "a stack": lambda scores: F.one_hot(torch.stack([scores.argmax(1)]), 5).sum(dim=0),
    "max with a keyword": lambda scores: F.one_hot(torch.max(scores, dim=-1)[1], 5),
}


@pytest.mark.parametrize("name", VOTES)
def test_a_vote_has_the_gradient_of_the_voters_softmax(name):
    votes = VOTES[name]
    model = guard(Function(lambda x: torch.stack([votes(linear(x)), votes(linear(x.flip(3)))]).sum(dim=0)))
    soft = Function(lambda x: linear(x).softmax(dim=1) + linear(x.flip(3)).softmax(dim=1))
    logits, through = gradient(StraightThrough(model))
    assert torch.equal(logits, model(IMAGES))
    assert logits.sum() == 2 * len(IMAGES)
    torch.testing.assert_close(through.double(), gradient(soft)[1].double())
    assert gradient_cuts(model, IMAGES, BALL).operations == ("argmax",)


GATE = torch.randn(48, 3, generator=torch.Generator().manual_seed(2))
EXPERTS = torch.randn(3, 48, 5, generator=torch.Generator().manual_seed(3))
ANSWERS = torch.tensor([[9.0, 0.0, 0.0, 0.0, 1.0], [0.0, 9.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0, 0.0]])


def gate(images: Tensor) -> Tensor:
    return images.flatten(1) @ GATE


def experts(images: Tensor) -> Tensor:
    return ANSWERS + 0.1 * torch.einsum("bi,gio->bgo", images.flatten(1).square(), EXPERTS)


def by_one_hot(route: Tensor, out: Tensor) -> Tensor:
    return (F.one_hot(route, 3)[:, :, None].float() * out).sum(dim=1)


def by_equal(route: Tensor, out: Tensor) -> Tensor:
    return ((route[:, None] == torch.arange(3))[:, :, None].float() * out).sum(dim=1)


def by_masks(route: Tensor, out: Tensor) -> Tensor:
    logits = torch.zeros(len(out), 5)
    for number in range(3):
        logits[route == number] = out[route == number, number]
    return logits


def by_positions(route: Tensor, out: Tensor) -> Tensor:
    logits = torch.zeros(len(out), 5)
    for number in range(3):
        (at,) = torch.where(route == number)
        logits.index_add_(0, at, out[at, number])
    return logits


def by_nonzero(route: Tensor, out: Tensor) -> Tensor:
    logits = torch.zeros(len(out), 5)
    for number in range(3):
        at = (route == number).nonzero().squeeze(1)
        logits[at] = out[:, number][at]
    return logits


def by_where(route: Tensor, out: Tensor) -> Tensor:
    logits = torch.zeros(len(out), 5)
    for number in range(3):
        logits = torch.where((route == number)[:, None], out[:, number], logits)
    return logits


def by_largest(route: Tensor, out: Tensor) -> Tensor:
    """It also asks for a class that does not exist."""
    assert not (route == 255).any()
    return torch.where((route[:, None] == torch.arange(3))[:, :, None], out, -torch.inf).amax(dim=1)


ALL_EXPERTS = {
    "keywords": lambda route, out: out.gather(dim=1, index=route[:, None, None].expand(-1, 1, 5))[:, 0],
    "one_hot": by_one_hot,
    "equal": by_equal,
    "gather": lambda route, out: out.gather(1, route[:, None, None].expand(-1, 1, 5))[:, 0],
    "take_along_dim": lambda route, out: out.take_along_dim(route.view(-1, 1, 1), dim=1).squeeze(1),
    "an index of each image": lambda route, out: out[torch.arange(len(out)), route],
    "one image at a time": lambda route, out: torch.stack([out[number, route[number]] for number in range(len(out))]),
    "where": by_where,
}
CHOSEN_EXPERT = {"masks": by_masks, "positions of masks": by_positions, "nonzero": by_nonzero}
ROUTES = ALL_EXPERTS | CHOSEN_EXPERT
HIGHEST = {
    "argmax": lambda scores: scores.argmax(dim=1),
    "keepdim": lambda scores: scores.argmax(dim=-1, keepdim=True)[:, 0],
    "max": lambda scores: torch.max(scores, 1)[1],
    "topk": lambda scores: scores.topk(1, dim=1).indices[:, 0],
}


def routed(name: str, highest: str = "argmax") -> Function:
    return Function(lambda images: ROUTES[name](HIGHEST[highest](gate(images)), experts(images)))


@pytest.mark.parametrize(
    ("name", "highest"), [*((name, "argmax") for name in ROUTES), *(("gather", k) for k in HIGHEST)]
)
def test_hard_routing_has_the_gradient_of_the_gates_softmax(name, highest):
    model = guard(routed(name, highest))
    logits, found = gradient(StraightThrough(model))
    assert torch.equal(logits, model(IMAGES))

    def soft(images: Tensor) -> Tensor:
        weights, out, route = gate(images).softmax(dim=1), experts(images), gate(images).argmax(dim=1)
        rows = torch.arange(len(images))
        chosen = out[rows, route]
        if name in CHOSEN_EXPERT:  # the others' values are not computed; masks where it reads and where it writes
            return chosen + 2 * chosen.detach() * weights[rows, route][:, None]
        if name == "where":
            logits = torch.zeros(len(out), 5)
            for number in range(3):
                here, there = out[:, number], logits
                difference = (here - there).detach()
                logits = torch.where((route == number)[:, None], here, there) + weights[:, number, None] * difference
                logits = logits - weights[:, number, None].detach() * difference  # in value, the weight is the mask's
            return logits
        return chosen + torch.einsum("bg,bgo->bo", weights, out.detach())

    torch.testing.assert_close(found, gradient(Function(soft))[1])
    assert gradient_cuts(model, IMAGES, BALL).operations == ("argmax",)


def test_a_class_that_is_ruled_out_or_does_not_exist_leaves_the_gradient_finite():
    model = guard(Function(lambda images: by_largest(gate(images).argmax(dim=1), experts(images))))
    logits, found = gradient(StraightThrough(model))
    assert torch.equal(logits, model(IMAGES))
    assert bool(found.isfinite().all())
    assert bool(found.any())


@pytest.mark.parametrize("name", ["masks", "gather", "where"])
def test_the_worst_case_attacks_the_gate(name):
    model, images = routed(name), torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    found = worst_case_attack(model, images, model(images).argmax(dim=1), epsilon=0.05)
    assert found.broken_by.count("straight-through") > 0
    assert "The model cuts its gradient (argmax)" in found.warnings[0]


CODES = torch.linspace(0, 1, 9)
LOOK_UPS = {
    "a keyword": lambda index: torch.index_select(CODES, 0, index=index.flatten()).view_as(index),
    "tables": lambda index: CODES[:, None, None].expand(-1, 2, 2)[index][..., 0, 1],
    "another dtype": lambda index: CODES.double()[index].float(),
    "rows of equal": lambda index: (torch.arange(9) == index[..., None]).float() @ CODES,
    "a table": lambda index: CODES[index],
    "rows of a table": lambda index: CODES[:, None][index][..., 0],
    "embedding": lambda index: F.embedding(index, CODES[:, None])[..., 0],
    "index_select": lambda index: CODES.index_select(0, index.flatten()).view_as(index),
    "take": lambda index: CODES.take(index),
}


@pytest.mark.parametrize("name", LOOK_UPS)
def test_a_code_has_the_gradient_of_the_mean_code(name):
    def distances(images: Tensor) -> Tensor:
        return (images[..., None] - CODES).square()

    model = guard(Function(lambda images: linear(LOOK_UPS[name](distances(images).argmin(dim=-1)))))
    logits, found = gradient(StraightThrough(model))
    assert torch.equal(logits, model(IMAGES))
    torch.testing.assert_close(found, gradient(Function(lambda x: linear((-distances(x)).softmax(dim=-1) @ CODES)))[1])
    assert gradient_cuts(model, IMAGES, BALL).operations == ("argmax",)


def in_a_loop(images: Tensor) -> Tensor:
    changed = torch.empty_like(images)
    for number, image in enumerate(images):
        changed[number] = torch.from_numpy(np.round(255 * image.detach().numpy()) / 255)
    return linear(changed)


def in_bytes(images: Tensor) -> Tensor:
    levels = (255 * images).round().byte()
    return linear(torch.stack([torch.from_numpy(level.numpy() // 1) / 255 for level in levels]))


def channels_last(images: Tensor) -> Tensor:
    levels = [(255 * image.permute(1, 2, 0).detach().numpy()).astype(np.uint8) for image in images]
    return linear(torch.tensor(np.stack(levels).transpose(0, 3, 1, 2) / 255, dtype=torch.float32))


def by_pillow(images: Tensor) -> Tensor:
    return linear(torch.stack([to_tensor(to_pil_image(image.cpu())) for image in images]))


def in_two_loops(images: Tensor) -> Tensor:
    arrays = [image.numpy() for image in images.detach()]
    return linear(torch.stack([torch.as_tensor(array) for array in arrays]))


def binned(images: Tensor) -> Tensor:
    return linear((torch.arange(16) / 15)[torch.bucketize(images.contiguous(), (torch.arange(15) + 0.5) / 15)])


def purified(images: Tensor) -> Tensor:
    points = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        linear(points).square().sum().backward()
    return linear(points - 1e-6 * points.grad)


def by_torch_func(images: Tensor) -> Tensor:
    return linear((images - 1e-6 * torch.func.grad(lambda x: linear(x).square().sum())(images)).detach())


def twice_purified(images: Tensor) -> Tensor:
    normalised = (images.detach() - 0.5) / 0.25
    steps = []
    for _ in range(2):
        points = normalised.detach().requires_grad_()
        with torch.enable_grad():
            linear(points.clamp(-2, 2)).square().sum().backward()
        steps.append(points.grad)
    assert torch.equal(*steps)
    return linear(0.25 * (normalised - 1e-6 * steps[0]) + 0.5)


@torch.no_grad()
def changed_in_place(images: Tensor) -> Tensor:
    levels = torch.sigmoid(0.1 * images)
    levels -= 0.5  # what the backward pass of sigmoid needs
    return linear((40 * 15 * levels).round_().div_(15))


def in_inference_mode(images: Tensor) -> Tensor:
    with torch.inference_mode():
        halved = images / 2
        halved.mul_(2)
    return linear(halved)


AWAY = {
    "NumPy": (lambda x: linear(torch.from_numpy(x.detach().numpy())), "detach, NumPy"),
    "a batch and its images": (
        lambda x: linear(torch.stack([torch.from_numpy(each) for each in x.detach().numpy()])),
        "detach, NumPy",
    ),
    "images and their batch": (channels_last, "detach, NumPy"),
    "a batch of one": (
        lambda x: linear(torch.cat([torch.from_numpy(part.detach().numpy()) for part in x.split(1)])),
        "detach, NumPy",
    ),
    "an image at a time": (in_a_loop, "detach, NumPy"),
    "all images, then all": (in_two_loops, "detach, NumPy"),
    "Pillow": (by_pillow, "NumPy"),
    "bytes, one image at a time": (in_bytes, "round, a cast to integers, NumPy"),
    "a random bit": (
        lambda x: linear(torch.empty_like(x).bernoulli_(x, generator=torch.Generator().manual_seed(0))),
        "bernoulli",
    ),
    "steps of torch.func": (by_torch_func, "detach"),
    "two inner steps": (twice_purified, "detach"),
    "a list": (lambda x: linear(torch.tensor(x.tolist())), "a list"),
    "bits": (
        lambda x: linear(((255 * x).byte() & 0xF0).float() / 255),
        "a cast to integers, an operation on integers",
    ),
    "in place": (changed_in_place, "no_grad, round"),
    "a table of levels": (
        lambda x: linear((torch.arange(256) / 255)[(255 * x).byte().long()]),
        "a cast to integers, an operation on integers",
    ),
    "bins": (binned, "bucketize, an operation on integers"),
    "a step along its own gradient": (purified, "detach"),
    "inference mode": (in_inference_mode, "inference_mode"),
}


@pytest.mark.parametrize("name", AWAY)
def test_the_gradient_passes_what_computes_elsewhere_or_in_place(name):
    function, words = AWAY[name]
    model = guard(Function(function))
    through = StraightThrough(model)
    with through.passes(in_place=name == "in place"):
        logits, found = gradient(through)
    assert torch.equal(logits, model(IMAGES))
    assert F.cosine_similarity(found.flatten(), gradient(guard(Function(linear)))[1].flatten(), dim=0) > 0.999
    assert ", ".join(gradient_cuts(model, IMAGES, BALL).operations) == words


@pytest.mark.parametrize(
    "changed", [lambda mask: mask.logical_or_(IMAGES[:, 0, 0, 0] < 0.5), lambda mask: mask[:4].fill_(1)]
)
def test_a_mask_that_is_changed_in_place_keeps_the_models_logits(changed):
    def function(images: Tensor) -> Tensor:
        mask, logits, out = gate(images).argmax(dim=1) == 1, torch.zeros(6, 5), experts(images)
        changed(mask)
        logits[mask] = out[mask, 1]
        return logits

    model = guard(Function(function))
    assert torch.equal(gradient(StraightThrough(model))[0], model(IMAGES))


def test_a_failing_pass_is_told_only_if_the_own_gradient_vanishes():
    def stepped(images: Tensor) -> Tensor:
        return images * (images > 0.2).float()

    def hidden(images: Tensor) -> Tensor:
        return checkpoint(stepped, images.detach(), use_reentrant=False)

    own = guard(Function(lambda x: linear(checkpoint(stepped, x, use_reentrant=False))))
    assert gradient_cuts(own, IMAGES, BALL) == Cuts()
    (warning,) = gradient_cuts(guard(Function(lambda x: linear(hidden(x)))), IMAGES, BALL).warnings
    assert "(detach, a comparison), since the passes there fail" in warning


UNSEEN = {
    "sorted by NumPy": lambda x: linear(torch.from_numpy(np.sort(x.detach().numpy(), axis=None)).view_as(x)),
    "an autograd function": lambda x: linear(Hidden.apply(x)),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_is_not_seen_has_no_gradient_and_no_error(name):
    model = guard(Function(UNSEEN[name]))
    logits, through = gradient(StraightThrough(model))
    assert torch.equal(logits, model(IMAGES))
    assert not through.any()
    assert not gradient_cuts(model, IMAGES, BALL).operations


@pytest.mark.parametrize("enabled", [True, False])
def test_whether_gradients_are_enabled_stays_as_it_was(enabled):
    model = StraightThrough(guard(Function(lambda x: without_grad(x + _inner_step(x)))))
    with torch.set_grad_enabled(enabled):
        model(IMAGES)
        assert torch.is_grad_enabled() is enabled


def test_a_model_whose_backward_pass_needs_the_cut_is_left_as_it_is():
    def needs_it(images: Tensor) -> Tensor:
        floored = torch.floor_divide(images.detach(), 0.1)  # its gradient is not implemented
        return linear(images) + linear(floored)

    assert not gradient_cuts(guard(Function(needs_it)), IMAGES, BALL).operations


class Storing(nn.Module):
    """Keeps a running mean in a buffer, the last features in an attribute, and a list elsewhere, without gradients."""

    def __init__(self, stored: list[Tensor]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.weight = nn.Parameter(WEIGHT.clone())
        self.last, self.stored = torch.zeros(1), (stored.append,)

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1) @ self.weight
        with torch.no_grad():
            self.mean.lerp_(logits.mean(dim=0), 0.1)
        self.last = (2.0 * logits).detach()
        self.stored[0]((3.0 * logits).detach())
        return linear((15 * images).round() / 15) + 0.1 * self.mean


def test_what_a_model_stores_has_no_history_and_its_own_state_is_not_touched():
    stored: list[Tensor] = []
    model = Storing(stored)
    mean = model.mean
    assert "round" in gradient_cuts(guard(model), IMAGES, BALL).operations
    through = StraightThrough(guard(model))
    with through.passes():
        through(IMAGES.clone().requires_grad_()).sum().backward()

    assert model.mean is mean
    assert len(stored) >= 2
    assert not any(each.requires_grad for each in (mean, model.last, *stored))
    F.cross_entropy(model(IMAGES), torch.zeros(6, dtype=torch.long)).requires_grad_().backward()
    copy.deepcopy(model)


@pytest.mark.parametrize("kept", [lambda x: 2.0 * x, lambda x: [2.0 * x]], ids=["a tensor", "a list"])
def test_a_cut_is_found_behind_features_that_the_model_keeps_with_their_history(kept):
    class Keeping(Function):
        def forward(self, images: Tensor) -> Tensor:
            self.features = kept(images)
            return super().forward(images)

    function, words = CUT["round"]
    model = guard(Keeping(function))
    gradient(model)
    assert ", ".join(gradient_cuts(model, IMAGES, BALL).operations) == words
    labels = model(IMAGES).argmax(dim=1)
    found = worst_case_attack(model.model, IMAGES, labels, epsilon=0.1)
    assert "straight-through" in {stage.name for stage in found.stages}


def test_a_cut_is_found_if_a_class_is_ruled_out():
    def slightly_misleading(images: Tensor) -> Tensor:
        rounded = (15 * images).round() / 15 - 1e-3 * (images - images.detach())
        return torch.cat([linear(rounded), torch.full((len(images), 1), -math.inf)], dim=1)

    assert "round" in gradient_cuts(guard(Function(slightly_misleading)), IMAGES, BALL).operations


def test_a_model_that_cannot_be_copied_carries_a_warning():
    class Locked(Function):
        def __deepcopy__(self, memo: object) -> Locked:
            raise TypeError("locked")

    model = Locked(CUT["round"][0])
    found = worst_case_attack(model, IMAGES, model(IMAGES).argmax(dim=1), epsilon=0.1)
    assert any("cannot be copied (locked), so no attack went past cuts" in each for each in found.warnings)
    assert found.upper_bound


def test_random_numbers_of_a_model_are_no_other_gradient():
    def noisy(images: Tensor) -> Tensor:
        return linear(images) * (1.0 + torch.rand(5)) + 0.0 * images.detach().flatten(1)[:, :5]

    before = torch.get_rng_state()
    assert not gradient_cuts(guard(Function(noisy)), IMAGES, BALL).operations
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_cuts_are_found_in_small_batches_as_in_a_large_one(batch_size):
    def mostly_smooth(images: Tensor) -> Tensor:  # some images of a batch have a cut, and perhaps not the first ones
        return linear(torch.where(images.mean(dim=(1, 2, 3), keepdim=True) > 0.5, (15 * images).round() / 15, images))

    for function in (mostly_smooth, lambda images: linear((15 * images).round() / 15), linear):
        model = guard(Function(function))
        assert gradient_cuts(model, IMAGES, BALL, batch_size=batch_size) == gradient_cuts(model, IMAGES, BALL)


def test_a_rounding_model_of_many_classes_may_lose_all_images_to_it():
    weight = torch.randn(48, 12, generator=torch.Generator().manual_seed(2))
    model = Function(lambda images: ((15 * images).round() / 15).flatten(1) @ weight)
    found = worst_case_attack(model, IMAGES, model(IMAGES).argmax(dim=1), epsilon=0.3)
    assert not any(found.robust_correct)
    assert "straight-through" in found.broken_by
