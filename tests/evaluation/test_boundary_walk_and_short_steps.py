"""Two guards of the worst case, on models whose gradient is right but leads the other stages to wrong places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ibrobust.evaluation.audit import audit
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.worst_case_attack import WorstCaseResult, guards, worst_case_attack
from ibrobust.evaluation.worst_case_attack.boundary import HALVINGS, TRIED_RADII, walk_on_boundary

EPSILON = 0.01
GATED_EPSILON = 0.1
SHAPE = (1, 8, 8)
CLASSES = 6


class Linear(nn.Module):
    """Images (B, 1, 8, 8) -> logits (B, 6) of a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor
        self.register_buffer("weights", torch.randn(CLASSES, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weights.T


class Rescaled(Linear):
    """The same decisions: the distance of each logit to the largest is rescaled, for each class along another line."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        lines = torch.randn(CLASSES, 64, generator=torch.Generator().manual_seed(5)).sign() / 8
        scales = torch.exp(130.0 * (images - 0.5).flatten(1) @ lines.T)
        return -(logits.amax(dim=1, keepdim=True) - logits) * scales


class Gated(nn.Module):
    """Images (B, 1, 8, 8) -> logits (B, 3): eight pixels decide between the first two classes.

    If the other pixels move as far as in a step along the signs of the gradient, another model answers.
    """

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images - 0.5).flatten(1)
        deciding, others = pixels[:, :8], pixels[:, 8:]
        signs = torch.randn(56, generator=torch.Generator().manual_seed(0)).sign()
        gate = torch.sigmoid(40.0 * (others.square().sum(dim=1) / 0.08 - 1.0))
        own = deciding.sum(dim=1) + 0.02 * others @ signs
        score = own * (1.0 - gate) + (0.05 * deciding.sum(dim=1) - 1.0) * gate
        return torch.stack([torch.zeros_like(score), score, score - 3.0], dim=1)


def linear_images() -> tuple[Tensor, Tensor, Tensor]:
    """(80, 1, 8, 8) grey images far from 0 and 1, their classes, and which are robust in truth at `EPSILON` (80,)."""
    model = Linear()
    images = 0.5 + 0.09 * torch.randn(80, *SHAPE, generator=torch.Generator().manual_seed(1))
    images = images.clamp(EPSILON, 1.0 - EPSILON)
    logits = model(images)
    labels = logits.argmax(dim=1)
    own, weights = logits.gather(1, labels[:, None]), model.weights
    # The worst that a step of epsilon on each pixel does to the gap of each class: Hoelder's inequality.
    most = EPSILON * (weights[labels][:, None] - weights[None]).abs().sum(dim=2)
    robust = (own - logits - most > 0).scatter(1, labels[:, None], True).all(dim=1)
    return images, labels, robust


def attacked(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float = EPSILON
) -> tuple[WorstCaseResult, Tensor]:
    """Return the result, and which images are left (N,) bool."""
    result = worst_case_attack(model, images, labels, epsilon=epsilon)
    return result, torch.tensor(result.robust_correct)


@pytest.fixture
def without_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "EXTRA_ATTACKS", {})


def test_a_linear_model_needs_no_other_way():
    images, labels, robust = linear_images()
    assert 10 < int(robust.sum()) < 70
    result, left = attacked(Linear(), images, labels)
    assert torch.equal(left, robust)
    assert not result.upper_bound
    stages = {stage.name: stage for stage in result.stages}
    assert all(stages[name].broken == 0 for name in guards.EXTRA_ATTACKS)


def test_the_page_says_how_many_passes_each_of_them_takes_for_an_image():
    images, labels, _ = linear_images()
    stages = {stage.name: stage for stage in worst_case_attack(Linear(), images, labels, epsilon=EPSILON).stages}
    short, walk, smoothed = (
        (stages[name].cost.forward_images + stages[name].cost.backward_images) / guards.LEAST_WATCHED
        for name in (guards.SHORT_STEPS, guards.BOUNDARY_WALK, guards.SMOOTHED)
    )
    page = " ".join(
        (Path(__file__).parents[2] / "docs" / "worst-case-comparison.md").read_text(encoding="utf-8").split()
    )
    most = re.search(r"boundary walk at most (\d+)", page)
    assert f"Short steps take {short:g} for each of at most 62 images, the boundary walk at most" in page
    assert f"and the smoothed gradient {smoothed:g}:" in page
    assert most is not None
    assert most[1] == str(guards.WALK_STARTS * (guards.WALK_STEPS * (HALVINGS + len(TRIED_RADII) + 3) + 1))
    assert 0.0 < walk <= float(most[1])


def test_margins_that_are_rescaled_class_by_class_do_not_hide_images():
    images, labels, robust = linear_images()
    result, left = attacked(Rescaled(), images, labels)
    assert not (robust & ~left).any()
    assert int(left.sum()) <= int(robust.sum()) + 3
    assert any(warning.startswith("A walk on the decision boundary broke") for warning in result.warnings)


@pytest.mark.usefixtures("without_other_ways")
def test_such_margins_hide_images_from_all_other_stages():
    images, labels, robust = linear_images()
    result, left = attacked(Rescaled(), images, labels)
    assert int(left.sum()) >= int(robust.sum()) + 5
    assert not result.upper_bound


def test_an_audit_of_such_margins_says_misleading_and_not_real():
    images, labels, _ = linear_images()
    report = audit(Rescaled(), images, labels, epsilon=EPSILON, quick=True)
    assert report.gradient == "misleading"
    assert report.robustness in ("not real", "undecided")


def gated_images() -> tuple[Tensor, Tensor, Tensor]:
    """(40, 1, 8, 8) grey images of class 0, their labels, and a point in the ball of each that may be misclassified."""
    pixels = torch.full((40, 64), 0.5)
    pixels[:, :8] -= torch.linspace(0.02, 0.16, 40)[:, None]
    moved = pixels.clone()
    moved[:, :8] += GATED_EPSILON
    return pixels.view(40, *SHAPE), torch.zeros(40, dtype=torch.long), moved.view(40, *SHAPE)


def test_short_steps_find_what_steps_as_long_as_the_ball_jump_over():
    images, labels, moved = gated_images()
    model = Gated()
    assert torch.equal(model(images).argmax(dim=1), labels)
    in_truth_at_most = int((model(moved).argmax(dim=1) == 0).sum())
    assert in_truth_at_most < 25
    result, left = attacked(model, images, labels, GATED_EPSILON)
    assert int(left.sum()) <= in_truth_at_most
    assert any(warning.startswith("Short steps along the gradient broke") for warning in result.warnings)


@pytest.mark.usefixtures("without_other_ways")
def test_without_short_steps_such_a_model_keeps_all_images():
    images, labels, _ = gated_images()
    assert int(attacked(Gated(), images, labels, GATED_EPSILON)[1].sum()) == 40


def test_the_walk_breaks_what_a_step_along_the_normal_of_the_boundary_breaks():
    images, labels, robust = linear_images()
    model, ball = guard(Linear()), Ball("Linf", EPSILON)
    broken, starts = torch.zeros(80, dtype=torch.bool), Linear()(images).argsort(dim=1, descending=True)
    for rank in range(1, CLASSES):
        # Far along the difference of two classes' weights, the other class is predicted.
        towards = (Linear().weights[starts[:, rank]] - Linear().weights[labels]).view(80, *SHAPE)
        ends = (images + 0.5 * towards.sign()).clamp(0, 1)
        wrong = model(ends).argmax(dim=1) != labels
        found = walk_on_boundary(model, images[wrong], labels[wrong], ends[wrong], ball=ball, steps=3)
        assert ball.contains(found, images[wrong]).all()
        broken[wrong] |= model(found).argmax(dim=1) != labels[wrong]
    assert not (broken & robust).any()
    assert int((broken | robust).sum()) >= 78  # of 80


def test_images_of_one_class_are_left_to_the_other_guards():
    images, labels, robust = linear_images()
    same = labels == labels[0]
    result, left = attacked(Linear(), images[same], labels[same])
    assert torch.equal(left, robust[same])
    assert not result.upper_bound
