"""Whether gradients add up along lines between images and in random directions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from awkward_models import Hidden
from torch import Tensor, nn

from ibrobust.evaluation.gradient_lines import (
    LINES,
    MORE_STEPS,
    STEPS,
    UNEXPLAINED,
    UNEXPLAINED_AT_RANDOM,
    unexplained_at_random,
    unexplained_shares,
)
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.pass_counter import counting_passes
from ibrobust.evaluation.worst_case_attack import worst_case_attack
from ibrobust.evaluation.worst_case_attack.guards import line_warnings

IMAGES = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
WEIGHT = 3 * torch.randn(48, 5, generator=torch.Generator().manual_seed(1))
GATE = torch.randn(48, 2, generator=torch.Generator().manual_seed(2))
HIDDEN = torch.randn(48, 48, generator=torch.Generator().manual_seed(3)) / 7


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images.flatten(1))


def shares(function, images: Tensor = IMAGES, batch_size: int = 250) -> Tensor:
    return unexplained_shares(guard(Function(function)), images, batch_size=batch_size)


HONEST = {
    "linear": lambda x: x @ WEIGHT,
    "ReLU": lambda x: F.relu(x @ HIDDEN) @ WEIGHT,
    "a mask": lambda x: (x @ HIDDEN) * (x @ HIDDEN > 0).float() @ WEIGHT,
    "softmax": lambda x: (x @ WEIGHT).log_softmax(dim=1),
    "a largest value": lambda x: torch.maximum(x @ WEIGHT, x.flip(1) @ WEIGHT),
    "straight-through levels": lambda x: (x + ((15 * x).round() / 15 - x).detach()) @ WEIGHT,
    "double": lambda x: (x.double() @ WEIGHT.double()).float(),
    "half": lambda x: (x.bfloat16() @ WEIGHT.bfloat16()).float(),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_gradient_explains_all(name):
    found = shares(HONEST[name])
    assert len(found) == LINES
    assert found.median() < 0.04


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_gradient_explains_random_directions(name):
    found = unexplained_at_random(guard(Function(HONEST[name])), IMAGES, batch_size=250)
    assert len(found) == LINES
    assert found.median() < 0.2
    assert not line_warnings(torch.zeros(0), found)


# Images that differ in few directions, as of natural images.
PLANE = torch.linalg.qr(torch.randn(48, 4, generator=torch.Generator().manual_seed(4))).Q
FLAT = (0.5 + 0.2 * torch.randn(40, 4, generator=torch.Generator().manual_seed(5)) @ PLANE.T).view(40, 3, 4, 4)


def turned(x: Tensor) -> Tensor:
    """A network whose gradient is right in the directions in which images differ, and turned around in all others."""
    if x.requires_grad:
        x = x * 1.0
        x.register_hook(lambda gradient: 2 * gradient @ PLANE @ PLANE.T - gradient)
    return F.relu(x @ HIDDEN) @ WEIGHT


def test_a_gradient_that_is_right_only_between_images_makes_an_upper_bound():
    model = Function(turned)
    labels = model(FLAT).argmax(dim=1)
    assert unexplained_shares(guard(model), FLAT, batch_size=250).max() < UNEXPLAINED
    assert (unexplained_at_random(guard(model), FLAT, batch_size=250) > UNEXPLAINED_AT_RANDOM).float().mean() > 0.5
    found = worst_case_attack(model, FLAT, labels, epsilon=0.001)
    assert any("in a random direction, the gradient does not explain" in warning for warning in found.warnings)


def routed(x: Tensor) -> Tensor:
    answers = torch.eye(5)[:2] * 100
    networks = [x @ WEIGHT + answer for answer in answers]
    return torch.stack([networks[int(i)][n] for n, i in enumerate(((x - 0.5) @ GATE).argmax(dim=1))])


def winners(hidden: Tensor) -> Tensor:
    return hidden * (hidden >= hidden.topk(4, dim=1).values[:, -1:]).float()


def votes(x: Tensor) -> Tensor:
    return F.one_hot((x @ WEIGHT).argsort(dim=1)[:, -1], 5) + 0.01 * x @ WEIGHT


MISLEADING = {
    "hidden": lambda x: Hidden.apply(x) @ WEIGHT,
    "half of it hidden": lambda x: (x + 2 * Hidden.apply(x)) @ WEIGHT,
    "votes": votes,
    "k winners": lambda x: winners((x - 0.5) @ HIDDEN) @ WEIGHT,
    "a choice in Python": lambda x: routed(x),
    "a ripple": lambda x: x @ WEIGHT + 5 * torch.sin(3000 * x @ WEIGHT),
    "bits": lambda x: ((x + 1).view(torch.int32) & -(1 << 20)).view(torch.float32) @ WEIGHT - WEIGHT.sum(dim=0),
    "twice the gradient": lambda x: (2 * x - x.detach()) @ WEIGHT,
}


def test_more_points_are_taken_if_the_gradient_turns_between_them():
    def turning(x: Tensor) -> Tensor:
        return x @ WEIGHT + 5 * torch.sin(20 * x @ WEIGHT)

    model = guard(Function(turning))
    with counting_passes(model) as counter:
        found = unexplained_shares(model, IMAGES, batch_size=250)
    assert found.median() < UNEXPLAINED
    assert counter().backward_images == LINES * (STEPS + 1 + MORE_STEPS + 1)


@pytest.mark.parametrize("name", MISLEADING)
def test_a_misleading_gradient_does_not(name):
    assert shares(MISLEADING[name]).median() > UNEXPLAINED


def test_the_share_of_a_part_without_gradient_is_that_part():
    torch.testing.assert_close(
        shares(lambda x: (x + 3 * x.detach()) @ WEIGHT), torch.full((LINES,), 0.75).double(), rtol=1e-4, atol=0
    )


def test_lines_go_to_the_next_image_of_another_class():
    pairs = []

    def model(x: Tensor) -> Tensor:
        pairs.append(x.detach().clone())
        return x

    images = torch.eye(3)[[0, 0, 1, 1, 0]].reshape(5, 3, 1, 1)
    assert len(shares(model, images)) == 5
    lines = pairs[-STEPS - 1 :]
    assert torch.equal(lines[0], torch.eye(3)[[0, 0, 1, 1, 0]])
    assert torch.equal(lines[-1], torch.eye(3)[[1, 1, 0, 0, 1]])


def test_a_class_that_is_ruled_out_leaves_the_other_lines():
    def without_some(x: Tensor) -> Tensor:
        return x @ WEIGHT + torch.where(x[:, :1] > 0.5, torch.tensor([0.0, 0.0, 0.0, 0.0, -torch.inf]), 0.0)

    found = shares(without_some)
    assert 0 < len(found) < LINES  # most images are of the last class
    assert found.median() < 0.04


@pytest.mark.parametrize("count", [1, 20])
def test_from_images_of_one_class_lines_go_to_grey_between_their_two_first_classes(count):
    pairs = []

    def model(x: Tensor) -> Tensor:
        pairs.append(x.detach().clone())
        return x @ torch.diag(torch.tensor([1.0, 3.0, 2.0])) + 5 * torch.eye(3)[1]

    images = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    assert shares(model, images).max() < 1e-5
    assert torch.equal(pairs[-1], torch.full((min(count, LINES), 3), 0.5))
    assert len(pairs) == 1 + STEPS + 1
    assert shares(lambda x: Hidden.apply(x) + 5 * torch.eye(3)[1], images).median() > UNEXPLAINED


def test_rounding_of_a_model_that_hardly_answers_is_no_sign():
    def nearly_constant(x: Tensor) -> Tensor:
        return 100.0 + torch.tensor([0.0, 1.0, 2.0]) + 1e-6 * x[:, :3]

    assert shares(nearly_constant).max() < UNEXPLAINED


def test_it_takes_no_larger_batches_for_all_its_lines_and_leaves_the_caller_without_gradients():
    model, sizes = guard(Function(HONEST["linear"])), []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    with counting_passes(model) as counter, torch.no_grad():
        found = unexplained_shares(model, IMAGES, batch_size=5)
    assert max(sizes) == 5
    assert (counter().forward_images, counter().backward_images) == (LINES * (STEPS + 2), LINES * (STEPS + 1))
    torch.testing.assert_close(found, unexplained_shares(model, IMAGES, batch_size=250), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "classes"), [(1, 5), (250, 1)])
def test_a_hidden_gradient_is_seen_one_image_at_a_time_and_on_images_of_one_class(batch_size, classes):
    model = Function(MISLEADING["half of it hidden"])
    labels = model(IMAGES).argmax(dim=1)
    kept = labels < 5 if classes > 1 else labels == labels.mode().values
    found = worst_case_attack(model, IMAGES[kept], labels[kept], epsilon=0.001, batch_size=batch_size)
    assert any("does not explain" in warning for warning in found.warnings)


@pytest.mark.parametrize("function", [routed, votes])
def test_the_worst_case_is_then_an_upper_bound(function):
    model = Function(function)
    labels = model(IMAGES).argmax(dim=1)
    found = worst_case_attack(model, IMAGES, labels, epsilon=0.001)
    assert found.upper_bound
    assert any("does not explain" in warning for warning in found.warnings)
    honest = Function(HONEST["ReLU"])
    assert not worst_case_attack(honest, IMAGES, honest(IMAGES).argmax(dim=1), epsilon=0.001).warnings


@pytest.mark.parametrize(("wrong", "warns"), [(2, False), (3, True)])
def test_one_or_two_lines_in_random_directions_may_be_cut_by_a_kink(wrong, warns):
    at_random = torch.tensor([1.0] * wrong + [0.1] * (16 - wrong))
    assert bool(line_warnings(torch.zeros(0), at_random)) is warns
