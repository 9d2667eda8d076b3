"""Whether a model draws random numbers, whatever its logits share: by the distance and by what is measured with it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ibrobust
from ibrobust.evaluation.logit_distance import BATCH_DEPENDENT, ONE_DRAW, batch_flags, logit_distance, logits_depend_on
from ibrobust.evaluation.worst_case_attack import AVERAGED

LOGITS = torch.tensor([[3.0, 0.0, -3.0], [1.0, -1.0, 0.0]])
MOVED = LOGITS + torch.tensor([[0.0, 0.0, 0.3], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("shift", [0.0, -1e3, 2e4])
def test_it_is_a_share_of_the_spread_whatever_shift_the_classes_share(shift: float) -> None:
    assert logit_distance(LOGITS + shift, MOVED + shift) == pytest.approx(0.3 / 18**0.5, abs=0.01)


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
def test_a_class_that_is_never_a_number_hides_nothing(value: float) -> None:
    extra = torch.full((2, 1), value)
    one, other = torch.cat([LOGITS, extra], dim=1), torch.cat([MOVED, extra], dim=1)
    assert logit_distance(one, one) == 0.0
    assert logit_distance(one, other) == pytest.approx(0.3 / 18**0.5, abs=1e-5)


def test_a_logit_that_is_a_number_once_is_no_rounding() -> None:
    assert logit_distance(LOGITS, LOGITS.masked_fill(LOGITS == 3.0, torch.nan)) >= 1.0


def test_rounding_is_no_distance() -> None:
    shifted = (LOGITS + 2e4).nextafter(torch.tensor(torch.inf))
    assert logit_distance(LOGITS + 2e4, shifted) == 0.0
    assert logit_distance(torch.zeros(2, 3), torch.zeros(2, 3)) == 0.0


@pytest.mark.parametrize("scale", [1e-16, 1e-30])
def test_tiny_logits_hide_nothing(scale: float) -> None:
    assert logit_distance(scale * LOGITS, scale * MOVED) == pytest.approx(0.3 / 18**0.5, abs=0.01)


class Noisy(nn.Module):
    """Four noisy logits of small images, shifted, or with one more class that is ruled out."""

    def __init__(self, *, shift: float = 0.0, ruled_out: bool = False) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(4, 12, generator=torch.Generator().manual_seed(0)))
        self.shift, self.ruled_out = shift, ruled_out

    def clean(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weights.T

    def forward(self, images: Tensor) -> Tensor:
        logits = self.clean(images)
        logits = logits + 0.3 * torch.randn_like(logits) + self.shift
        return torch.cat([logits, logits.new_full((len(logits), 1), -torch.inf)], dim=1) if self.ruled_out else logits


IMAGES = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(1))
LABELS = Noisy().clean(IMAGES).argmax(dim=1)
HIDDEN = [Noisy(shift=-2e4), Noisy(ruled_out=True)]


@pytest.mark.parametrize("model", HIDDEN)
def test_the_worst_case_attack_averages_such_a_model(model: Noisy) -> None:
    assert AVERAGED in ibrobust.worst_case_attack(model, IMAGES, LABELS, epsilon=0.01, queries=1).warnings


@pytest.mark.parametrize("model", HIDDEN)
def test_an_audit_calls_such_a_model_random(model: Noisy, light_audits: None) -> None:
    failed = ibrobust.audit(model, IMAGES, LABELS, epsilon=0.01, quick=True).failed
    assert "determinism" in [check.name for check in failed]


@pytest.mark.parametrize("model", HIDDEN)
def test_autoattack_warns_about_such_a_model(model: Noisy) -> None:
    attack = ibrobust.AutoAttack(n_iter=2, n_queries=2)
    (result,) = ibrobust.run_attacks(model, IMAGES, LABELS, attacks=attack, epsilons=0.01)
    assert any('version="rand"' in flag for flag in result.flags)


class OffGrid(nn.Module):
    """Small images -> their numbers as logits. An image that is not of 8 bits gets something more."""

    def __init__(self, extra: str) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, images: Tensor) -> Tensor:
        logits, levels = images.flatten(1), 255.0 * images.detach().flatten(1)
        moved = ((levels - levels.round()).abs() > 1e-3).any(dim=1, keepdim=True)
        if self.extra == "noise":
            return logits + torch.randn_like(logits) * moved
        return logits + logits.mean(dim=0) * moved if self.extra == "batch" else logits


ON_GRID = (255.0 * IMAGES).round() / 255.0


@pytest.mark.parametrize(("extra", "flags"), [("noise", (ONE_DRAW,)), ("batch", (BATCH_DEPENDENT,)), ("nothing", ())])
def test_what_a_model_does_to_attacked_images_alone_is_found(extra: str, flags: tuple[str, ...]) -> None:
    assert batch_flags(OffGrid(extra), ON_GRID) == flags


def test_the_worst_case_attack_averages_a_model_that_is_random_on_attacked_images_alone() -> None:
    model, labels = OffGrid("noise"), ON_GRID.flatten(1).argmax(dim=1)
    assert AVERAGED in ibrobust.worst_case_attack(model, ON_GRID, labels, epsilon=0.01, queries=1).warnings


class NoisyBackward(nn.Module):
    """Small images -> four logits, whose backward pass alone is noisy, or fails."""

    def __init__(self, size: float | None) -> None:
        super().__init__()
        self.linear, self.size = Noisy(), size

    def forward(self, images: Tensor) -> Tensor:
        images = images.clone()
        if images.requires_grad:
            images.register_hook(self.noisy)
        return self.linear.clean(images)

    def noisy(self, gradient: Tensor) -> Tensor:
        if self.size is None:
            raise RuntimeError("no backward pass")
        return gradient * (1.0 + self.size * torch.randn_like(gradient))


@pytest.mark.parametrize(("size", "found"), [(1.0, "draws"), (1e-3, None), (0.0, None), (None, None)])
def test_a_random_backward_pass_is_found_and_rounding_is_none(size: float | None, found: str | None) -> None:
    assert logits_depend_on(NoisyBackward(size), IMAGES) == found
