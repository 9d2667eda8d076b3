from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.objectives import adversarial
from ibrobust.objectives.adversarial import AdversarialTraining

EPSILON = 0.1


def images(count: int = 32, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    draws = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return low + (high - low) * draws


def objective(head: nn.Module | None = None) -> AdversarialTraining:
    torch.manual_seed(0)
    return AdversarialTraining(latent_dim=48, num_classes=3, head=head, epsilon=EPSILON)


LABELS = torch.arange(32) % 3


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


@pytest.mark.parametrize("recovering", [False, True])
def test_images_stay_in_the_box_and_the_pixel_range(recovering: bool):
    x, trained = images(), objective()
    trained.steps_done, trained.recovering = 1, recovering
    attacked = trained.training_images(x, LABELS, flat)
    assert float((attacked - x).abs().max()) <= EPSILON + 1e-6
    assert float(attacked.min()) >= 0.0
    assert float(attacked.max()) <= 1.0
    assert not attacked.requires_grad


def test_the_model_is_asked_about_pixels_in_the_pixel_range_alone():
    extremes = []

    def watched(x: Tensor) -> Tensor:
        extremes.extend((float(x.detach().min()), float(x.detach().max())))
        return flat(x)

    objective().training_images(images().round(), LABELS, watched)  # black and white: half of the starts lead outside
    assert 0.0 <= min(extremes) <= max(extremes) <= 1.0


def test_single_step_equals_the_equation():
    # A linear model's gradient does not depend on the start, so the step of 1.25 epsilon has a closed form given it.
    x, trained = images(low=0.3, high=0.7), objective()
    trained.steps_done = 1
    torch.manual_seed(3)
    attacked = trained.training_images(x, LABELS, flat)
    torch.manual_seed(3)
    start = EPSILON * (2 * torch.rand_like(x) - 1)
    at_start = (x + start).requires_grad_()
    torch.nn.functional.cross_entropy(trained.head(flat(at_start)), LABELS).backward()
    delta = (start + 1.25 * EPSILON * at_start.grad.sign()).clamp(-EPSILON, EPSILON)
    assert torch.allclose(attacked, x + delta, atol=1e-6)


def test_several_steps_find_the_worst_corner_of_two_class_linear_models():
    torch.manual_seed(0)
    trained = AdversarialTraining(latent_dim=48, num_classes=2, epsilon=EPSILON)
    trained.steps_done, trained.recovering = 1, True
    x, labels = images(low=0.3, high=0.7), torch.arange(32) % 2
    # Five steps of half epsilon reach every corner from every start.
    attacked = trained.training_images(x, labels, flat)
    weight = trained.head.weight.detach()
    direction = (weight[1 - labels] - weight[labels]).sign().view_as(x)
    assert torch.allclose(attacked, x + EPSILON * direction, atol=1e-6)


def test_parameter_gradients_are_left_alone():
    trained = objective()
    trained.training_images(images(), LABELS, flat)
    assert trained.head.weight.grad is None


class Bent(nn.Module):
    """Overfitted to the single step: its gradient leads to the edge of the box, and only there is it right."""

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.centre = centre

    def forward(self, latents: Tensor) -> Tensor:
        offset = (latents - self.centre.flatten(1)).abs() / EPSILON
        margin = torch.where(offset < 0.9, -9.0 - offset, 3.0 - 129.0 * (1.0 - offset)).mean(dim=1)
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def test_guard_turns_to_several_steps_when_the_model_has_bent_its_gradient():
    x = images(low=0.3, high=0.7)
    trained = objective(Bent(x))
    labels = torch.zeros(32, dtype=torch.long)
    torch.manual_seed(0)
    attacked = trained.training_images(x, labels, flat)
    assert trained.recovering
    assert float((trained.head(flat(attacked)).argmax(1) == labels).float().mean()) < 0.2
    assert float(trained(flat(attacked), labels).terms["share of PGD steps"]) == 1.0


def test_guard_goes_back_when_the_attacks_agree_again():
    x, trained = images(), objective()
    trained.recovering = True
    trained.training_images(x, LABELS, flat)
    assert not trained.recovering
    assert float(trained(flat(x), LABELS).terms["share of PGD steps"]) == 0.0


def test_guard_looks_at_every_twentieth_batch_only():
    x = images(low=0.3, high=0.7)
    trained = objective(Bent(x))
    calls = []

    def counted(attacked: Tensor) -> Tensor:
        calls.append(len(attacked))
        return flat(attacked)

    trained.steps_done = 1
    for _ in range(adversarial.STEPS_BETWEEN_CHECKS - 1):
        trained.training_images(x, torch.zeros(32, dtype=torch.long), counted)
    assert len(calls) == adversarial.STEPS_BETWEEN_CHECKS - 1
    assert not trained.recovering


def test_guard_state_is_stored_with_the_weights():
    before, after = objective(), objective()
    before.steps_done, before.recovering = 17, True
    after.load_state_dict(load(save(before.state_dict())))
    assert (after.steps_done, after.recovering) == (17, True)


@pytest.mark.parametrize("epsilon", [0.0, -0.1, math.nan, math.inf, 8.0])
def test_bad_epsilon_is_refused(epsilon: float):
    with pytest.raises(IbrobustError, match="epsilon is"):
        AdversarialTraining(latent_dim=2, num_classes=2, epsilon=epsilon)
