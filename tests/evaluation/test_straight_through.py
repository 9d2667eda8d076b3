"""The gradient past rounding, comparisons, votes, `detach` and `no_grad`, against that of the uncut function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.straight_through import StraightThrough, gradient_cuts

IMAGES = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(48, 5, generator=torch.Generator().manual_seed(1))
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
    assert ", ".join(gradient_cuts(model, IMAGES)) == words


@pytest.mark.parametrize("name", OWN)
def test_a_gradient_of_the_models_own_stays(name):
    model = guard(Function(OWN[name]))
    (logits, through), (own_logits, own) = gradient(StraightThrough(model)), gradient(model)
    assert torch.equal(logits, own_logits)
    torch.testing.assert_close(through, own)
    assert not gradient_cuts(model, IMAGES)


VOTES = {
    "argmax": lambda scores: F.one_hot(scores.argmax(dim=1), 5),
    "argmax in floats": lambda scores: F.one_hot(scores.argmax(1), 5).float(),
    "max": lambda scores: F.one_hot(scores.max(dim=1).indices, 5),
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
    assert gradient_cuts(model, IMAGES) == ("argmax",)


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.zeros_like(gradient)


UNSEEN = {
    "NumPy": lambda x: linear(torch.from_numpy(x.detach().numpy())),
    "an autograd function": lambda x: linear(Opaque.apply(x)),
    "inference mode": torch.inference_mode()(linear),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_is_not_seen_has_no_gradient_and_no_error(name):
    model = guard(Function(UNSEEN[name]))
    logits, through = gradient(StraightThrough(model))
    assert torch.equal(logits, model(IMAGES))
    assert not through.any()
    assert not gradient_cuts(model, IMAGES)


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

    assert not gradient_cuts(guard(Function(needs_it)), IMAGES)


def test_random_numbers_of_a_model_are_no_other_gradient():
    def noisy(images: Tensor) -> Tensor:
        return linear(images) * (1.0 + torch.rand(5)) + 0.0 * images.detach().flatten(1)[:, :5]

    before = torch.get_rng_state()
    assert not gradient_cuts(guard(Function(noisy)), IMAGES)
    assert torch.equal(torch.get_rng_state(), before)
