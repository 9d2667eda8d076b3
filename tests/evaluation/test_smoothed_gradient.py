"""Gradients that are averaged over the ball: their value, and a model whose own gradient is right but leads nowhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ibrobust.evaluation.audit import audit
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.smoothed_gradient import SmoothedGradient
from ibrobust.evaluation.worst_case_attack import WorstCaseResult, guards, worst_case_attack
from ibrobust.evaluation.worst_case_attack.search import Search

EPSILON = 0.06
WAVELENGTH = 0.03


class Rippled(nn.Module):
    """Images (B, 3, 16, 16) -> logits (B, 2): a weighted sum of pixels, each plus a sine of itself."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.steepness = steepness
        self.register_buffer("weights", torch.randn(3, 16, 16, generator=generator))
        self.register_buffer("phases", 2 * math.pi * torch.rand(3, 16, 16, generator=generator))

    def terms(self, images: Tensor) -> Tensor:
        sines = torch.sin(2 * math.pi * images / WAVELENGTH + self.phases)
        return self.weights * (images + self.steepness * WAVELENGTH / (2 * math.pi) * sines)

    def forward(self, images: Tensor) -> Tensor:
        score = self.terms(images).flatten(1).sum(dim=1)
        return torch.stack([score, -score], dim=1)


def robust_in_truth(model: Rippled, images: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: the least score in the ball, pixel by pixel from a grid, has the right sign."""
    signs = 1.0 - 2.0 * labels.view(-1, 1, 1, 1)
    steps = torch.linspace(-EPSILON, EPSILON, 401)
    least = torch.stack([signs * model.terms((images + step).clamp(0, 1)) for step in steps]).amin(dim=0)
    return least.flatten(1).sum(dim=1) > 0


def images_near_and_far(model: Rippled) -> tuple[Tensor, Tensor]:
    """(64, 3, 16, 16) grey images, moved along the weights by steps of several sizes."""
    generator = torch.Generator().manual_seed(1)
    images = 0.5 + 0.1 * torch.randn(64, 3, 16, 16, generator=generator)
    score = (images * model.weights).flatten(1).sum(dim=1).view(-1, 1, 1, 1)
    images -= model.weights * score / model.weights.square().sum()
    sizes = torch.linspace(-1.0, 1.0, 64).view(-1, 1, 1, 1)
    images = (images + 1.5 * EPSILON * sizes * model.weights.sign()).clamp(0, 1)
    return images, model(images).argmax(dim=1)


def attacked(steepness: float) -> tuple[WorstCaseResult, Tensor, Tensor]:
    """Return the result, and which images are left and which are robust in truth (N,) bool."""
    model = Rippled(steepness)
    images, labels = images_near_and_far(model)
    result = worst_case_attack(model, images, labels, epsilon=EPSILON)
    return result, torch.tensor(result.robust_correct), robust_in_truth(model, images, labels)


def test_without_a_ripple_nothing_needs_the_smoothed_gradient():
    result, left, truth = attacked(steepness=0.0)
    assert torch.equal(left, truth)
    assert not result.upper_bound
    assert all(stage.broken == 0 for stage in result.stages if stage.name == guards.SMOOTHED)


def test_a_ripple_finer_than_the_ball_hides_few_images():
    """Steps along its own gradient leave 44 of 64 images; 18 are robust in truth."""
    result, left, truth = attacked(steepness=3.0)
    assert not (truth & ~left).any()
    assert int(left.sum()) <= int(truth.sum()) + 6
    assert result.upper_bound
    assert any(warning.startswith("A gradient that is averaged over the ball broke") for warning in result.warnings)


def test_the_audit_calls_the_gradient_of_a_ripple_misleading_and_nothing_real():
    model = Rippled(3.0)
    model.weights *= 0.02  # so that the softmax does not saturate
    report = audit(model, *images_near_and_far(model), epsilon=EPSILON, quick=True)
    assert report.gradient == "misleading"
    assert report.robustness in ("not real", "undecided")


def test_the_logits_are_the_model_s_and_the_gradient_is_the_mean_over_the_points():
    model, ball = guard(Rippled(3.0)), Ball("Linf", EPSILON)
    images = 0.3 + 0.4 * torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    points = images.clone().requires_grad_()
    logits = SmoothedGradient(model, ball, draws=5, seed=7)(points)
    assert torch.equal(logits, model(images))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), points)
    generator, expected = torch.Generator().manual_seed(7), torch.zeros_like(images)
    for _ in range(5):
        drawn = ball.random_point(images, generator).requires_grad_()
        expected += torch.autograd.grad(model(drawn)[:, 0].sum(), drawn)[0] / 5
    torch.testing.assert_close(gradient, expected)


class Asked(nn.Module):
    """A model that notes how many images with a gradient it gets at a time, and their range."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.least, self.most = 0.5, 0.5

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            self.batches.append(len(images))
        pixels = images.detach()
        self.least, self.most = min(self.least, float(pixels.min())), max(self.most, float(pixels.max()))
        score = 1.0 + 0.0 * images.flatten(1).sum(dim=1)
        return torch.stack([score, -score], dim=1)


def test_all_draws_together_are_no_more_images_than_a_batch_and_stay_in_range():
    model, images = Asked(), torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(3)).round()
    search = Search(guard(model), 1, images, torch.zeros(40, dtype=torch.long), Ball("Linf", 0.1), 20)
    guards.follow_smoothed_gradient(search, search.left, 0, False)
    assert max(model.batches) == 20 // guards.DRAWS
    assert (model.least, model.most) == (0.0, 1.0)


def test_no_image_left_is_nothing_to_do():
    search = Search(guard(Asked()), 1, torch.rand(4, 3, 8, 8), torch.ones(4, dtype=torch.long), Ball("L2", 0.1), 20)
    guards.follow_smoothed_gradient(search, search.left, 0, False)
    assert not search.broken.any()
