"""The boundary attack with early stops against pyautoattack's FAB."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import LibraryModel, guard
from ibrobust.evaluation.pass_counter import counting_passes
from ibrobust.evaluation.worst_case_attack.boundary import follow_boundary

STEPS = 12


def _network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (2.0 / parameter[0].numel()) ** 0.5
    return network.eval()


def _images() -> Tensor:
    return torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _of_pyautoattack(model: nn.Module, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """Return the misclassified points (B, C, H, W) that FAB finds nearest, towards the second likeliest class."""
    from pyautoattack.fab_pt import FABAttack_PT

    attack = FABAttack_PT(LibraryModel(model), norm=norm, n_iter=STEPS, eps=0.1, targeted=True, device="cpu")
    attack.target_class = 2
    with torch.no_grad():
        return attack.attack_single_run(images, labels, is_targeted=True)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_without_an_early_stop_it_finds_the_points_of_fab(norm):
    model, images = guard(_network()), _images()
    order = model(images).argsort(dim=1, descending=True)
    theirs = _of_pyautoattack(model, images, order[:, 0], norm)
    lengths = torch.linalg.vector_norm((theirs - images).flatten(1), ord=math.inf if norm == "Linf" else 2, dim=1)
    assert int((lengths > 0).sum()) > 20  # it finds most

    found, distances = follow_boundary(model, images, order[:, 0], order[:, 1], ball=Ball(norm, 1e-5), steps=STEPS)

    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=0)
    torch.testing.assert_close(distances.nan_to_num(posinf=0) * 1e-5, lengths, atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_an_early_stop_breaks_the_images_of_fab_with_fewer_passes(norm):
    model, images = guard(_network()), _images()
    order = model(images).argsort(dim=1, descending=True)
    theirs = _of_pyautoattack(model, images, order[:, 0], norm)
    lengths = torch.linalg.vector_norm((theirs - images).flatten(1), ord=math.inf if norm == "Linf" else 2, dim=1)
    epsilon = float(lengths.median()) * 1.001

    with counting_passes(model) as counter:
        found, distances = follow_boundary(
            model, images, order[:, 0], order[:, 1], ball=Ball(norm, epsilon), steps=STEPS
        )

    within = distances <= 1.0
    assert within.tolist() == ((lengths > 0) & (lengths <= epsilon)).tolist()
    assert bool((model(found[within]).argmax(dim=1) != order[within, 0]).all())
    assert counter().backward_images < 0.8 * STEPS * len(images)


def test_an_image_is_given_up_if_its_boundary_is_out_of_reach():
    model, images = guard(_network()), _images()
    order = model(images).argsort(dim=1, descending=True)
    with counting_passes(model) as counter:
        follow_boundary(model, images, order[:, 0], order[:, 1], ball=Ball("Linf", 1e-5), steps=STEPS, patience=5)
    assert counter().backward_images == 5 * len(images)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_model_in_float64_has_the_points_of_float32(norm):
    model, images = guard(_network()), _images()
    order = model(images).argsort(dim=1, descending=True)
    options = {"ball": Ball(norm, 1e-5), "steps": STEPS}
    expected, distances = follow_boundary(model, images, order[:, 0], order[:, 1], **options)

    double = guard(_network().double())
    found, theirs = follow_boundary(double, images.double(), order[:, 0], order[:, 1], **options)

    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs.float(), distances, atol=1e-4 / 1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1e-18, 1e-8, 1e8, 1e18])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_scale_of_the_logits_changes_nothing(norm, scale):
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.network, self.factor = _network(), factor

        def forward(self, images: Tensor) -> Tensor:
            return self.network(images) * self.factor

    images, ball = _images(), Ball(norm, 0.05 if norm == "Linf" else 0.5)
    order = _network()(images).argsort(dim=1, descending=True)
    within = [
        follow_boundary(guard(Scaled(factor)), images, order[:, 0], order[:, 1], ball=ball, steps=STEPS)[1] <= 1.0
        for factor in (1.0, scale)
    ]
    assert int(within[0].sum()) > 3
    assert torch.equal(*within)
