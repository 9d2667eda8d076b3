"""A file of adversarial images confirms its record image by image, not by its counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ibrobust.evaluation.adversarial_images import Verification, save_adversarial_images, verify_adversarial_images
from ibrobust.evaluation.attacks.result import AttackResult

COUNT = 40
EPSILON = 0.1
# Of images that are all correct; the attack breaks every second one.
BROKEN = torch.arange(COUNT) % 2 == 0


class Brightness(nn.Module):
    """Images (B, 1, 1, 1) -> logits (B, 2): class 1 if the pixel is bright, with noise of this size."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, images: Tensor) -> Tensor:
        logit = images.flatten(1) - 0.5
        logit = logit + self.noise * torch.randn_like(logit)
        return torch.cat([-logit, logit], dim=1)


class Always(nn.Module):
    """One class for every image."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(images), 2) + 0.0 * images.flatten(1)


RECORD = AttackResult(
    "WorstCase", "Linf", EPSILON, (True,) * COUNT, tuple((~BROKEN).tolist()), nonfinite_gradient=0, seed=0
)


def _verified(
    path: Path, *, shown: Tensor = BROKEN, record: AttackResult = RECORD, model: nn.Module | None = None
) -> Verification:
    """Return what a file says in which the images `shown` (N,) are broken."""
    images = torch.full((COUNT, 1, 1, 1), 0.55)
    adversarial = torch.where(shown[:, None, None, None], images - EPSILON, images)
    labels = torch.ones(COUNT, dtype=torch.long)
    save_adversarial_images(path, images, adversarial, labels, record=record, model="m")
    return verify_adversarial_images(path, model or Brightness())


def test_the_images_of_the_record_confirm_it(tmp_path):
    assert _verified(tmp_path / "f").holds


def test_other_images_that_are_as_many_do_not_confirm_it(tmp_path):
    found = _verified(tmp_path / "f", shown=~BROKEN)
    assert found.robust_correct == sum(RECORD.robust_correct)
    assert found.unconfirmed == COUNT / 2
    assert not found.holds


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_record_without_the_images_that_its_file_breaks_is_not_confirmed(tmp_path, noise):
    record = replace(RECORD, attacked_correct=RECORD.clean_correct)
    found = _verified(tmp_path / "f", record=record, model=Brightness(noise))
    assert (found.unconfirmed, found.refuted) == (0, COUNT / 2)
    assert not found.holds


def test_a_model_that_is_always_wrong_does_not_confirm_it(tmp_path):
    found = _verified(tmp_path / "f", model=Always())
    assert found.robust_correct == found.clean_correct == 0
    assert not found.holds


@pytest.mark.parametrize("attack", ["WorstCase", "WorstCase:norm=Linf"])
def test_a_random_model_is_judged_by_averages_where_its_record_was(tmp_path, attack):
    """One draw is right for three images in ten that are broken, and wrong for as many of the others."""
    found = _verified(tmp_path / "f", record=replace(RECORD, attack=attack), model=Brightness(noise=0.1))
    assert found.random
    assert abs(found.robust_correct - COUNT / 2) <= 2
    assert found.holds


def test_a_random_model_does_not_confirm_other_images(tmp_path):
    unbroken = torch.zeros_like(BROKEN)
    found = _verified(tmp_path / "f", shown=unbroken, model=Brightness(noise=0.1))
    assert found.unconfirmed > 15
    assert not found.holds


def test_a_record_of_one_draw_is_judged_by_one_draw(tmp_path):
    found = _verified(tmp_path / "f", record=replace(RECORD, attack="PGD"), model=Brightness(noise=0.1))
    assert found.clean_correct < COUNT - 5


class Unrelated(nn.Module):
    """Two logits that have nothing to do with the image."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.randn(len(images), 2) + 0.0 * images.flatten(1)


@pytest.mark.parametrize("attack", ["WorstCase", "PGD"])
def test_a_random_model_that_is_wrong_without_an_attack_does_not_confirm_it(tmp_path, attack):
    found = _verified(tmp_path / "f", record=replace(RECORD, attack=attack), model=Unrelated())
    assert found.lost > 10
    assert found.gained == 0
    assert not found.holds


class RoundedUp(Brightness):
    """As on a processor with shorter numbers: a little brighter."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 1e-7)


def test_a_broken_image_at_the_boundary_may_be_rounded_to_the_other_side(tmp_path):
    images = torch.full((COUNT, 1, 1, 1), 0.55)
    # Two logits of the same size are misclassified, since argmax takes the first.
    adversarial = torch.where(BROKEN[:, None, None, None], 0.5, images)
    labels = torch.ones(COUNT, dtype=torch.long)
    save_adversarial_images(tmp_path / "f", images, adversarial, labels, record=RECORD, model="m")
    found = verify_adversarial_images(tmp_path / "f", RoundedUp())
    assert found.robust_correct == COUNT
    assert found.holds


class RoundedDown(Brightness):
    """As on a processor with shorter numbers: a little darker."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - 1e-7)


def test_an_unbroken_image_at_the_boundary_may_be_rounded_to_the_other_side(tmp_path):
    images = torch.full((COUNT, 1, 1, 1), 0.55)
    adversarial = torch.where(BROKEN[:, None, None, None], images - EPSILON, 0.5 + 6e-8)
    labels = torch.ones(COUNT, dtype=torch.long)
    save_adversarial_images(tmp_path / "f", images, adversarial, labels, record=RECORD, model="m")
    found = verify_adversarial_images(tmp_path / "f", RoundedDown())
    assert found.robust_correct == 0
    assert found.holds


class WithoutGradient(Brightness):
    """Finite logits with a NaN gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 0.0 * (images - images.detach()).flatten(1).sqrt()


def test_a_nan_gradient_breaks_no_image(tmp_path):
    shown = BROKEN.clone()
    shown[[0, 2]] = False
    record = replace(RECORD, nonfinite_gradient=2)
    found = _verified(tmp_path / "f", shown=shown, record=record, model=WithoutGradient())
    assert found.unconfirmed == 2
    assert not found.holds


class Masked(Brightness):
    """With a third class, whose logit is always the same."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([super().forward(images), torch.full((len(images), 1), self.logit)], dim=1)


@pytest.mark.parametrize("logit", [-5.0, -1e4, -1e9, -torch.inf])
def test_a_class_that_is_ruled_out_confirms_nothing(tmp_path, logit):
    found = _verified(tmp_path / "f", shown=torch.zeros_like(BROKEN), model=Masked(logit))
    assert found.unconfirmed == COUNT / 2
    assert not found.holds
