"""A model that gives other logits when a gradient is taken, as attacks see it, gets a warning everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.audit import audit
from ibrobust.evaluation.grad_mode import GRAD_MODE, grad_mode_flags
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.evaluation.worst_case_attack import worst_case_attack

IMAGES = torch.rand(20, 1, 1, 3, generator=torch.Generator().manual_seed(0))


class Switched(nn.Module):
    """Images (B, 1, 1, 3) -> logits (B, 3); `switch` says whether they come in the opposite order."""

    def __init__(self, switch: str) -> None:
        super().__init__()
        self.switch = switch

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1)
        turned = {"never": False, "enabled": torch.is_grad_enabled(), "required": images.requires_grad}[self.switch]
        return logits.flip(1) if turned else logits


@pytest.mark.parametrize("switch", ["enabled", "required", "never"])
@pytest.mark.parametrize("attack", ["sweep", "FGSM", "PGD:steps=2", "AutoAttack:n_iter=2,n_queries=2", "WorstCase"])
def test_every_attack_warns(switch: str, attack: str) -> None:
    model, labels = Switched(switch), IMAGES.flatten(1).argmax(dim=1)
    if attack == "sweep":
        flags = fgsm_sweep(model, IMAGES, labels, [0.01]).flags
    else:
        (result,) = run_attacks(model, IMAGES, labels, attacks=attack, epsilons=0.01)
        flags = result.flags
    assert (GRAD_MODE in flags) is (switch != "never")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_rounding_of_another_kernel_is_no_other_logit(dtype: torch.dtype) -> None:
    class Kernel(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = images.flatten(1).to(dtype)
            return logits * (1 + torch.finfo(dtype).eps) if images.requires_grad else logits

    assert grad_mode_flags(guard(Kernel()), IMAGES) == ()


def test_noise_of_a_generator_of_the_models_own_does_not_come_from_gradients() -> None:
    generator = torch.Generator().manual_seed(0)

    class Noisy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) + torch.rand(3, generator=generator)

    assert grad_mode_flags(guard(Noisy()), IMAGES) == ()


class SwitchedOffTheGrid(nn.Module):
    """Images (B, 1, 1, 3) -> logits (B, 3), in the opposite order for attacked images if a gradient is taken."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1)
        if not images.requires_grad:
            return logits
        attacked = ((8 * images.detach()).frac() > 1e-4).flatten(1).any(dim=1, keepdim=True)
        return torch.where(attacked, logits.flip(1), logits)


def test_other_logits_of_attacked_images_alone_are_seen_by_the_worst_case_and_break_no_image_of_an_audit() -> None:
    images = torch.tensor([[0.25, 0.5, 0.75], [0.75, 0.5, 0.25]]).repeat(10, 1).view(20, 1, 1, 3)
    model, labels = SwitchedOffTheGrid(), images.flatten(1).argmax(dim=1)
    assert grad_mode_flags(guard(model), images) == ()
    found = worst_case_attack(model, images, labels, epsilon=0.01)
    assert (found.robust_accuracy, GRAD_MODE in found.warnings) == (1.0, True)
    report = audit(model, images, labels, epsilon=0.01, quick=True)
    assert (report.worst_case_accuracy, report.upper_bound) == (1.0, True)
