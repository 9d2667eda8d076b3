"""What is tolerated beyond epsilon: rounding in float32, and no visible part of a tiny radius."""

from __future__ import annotations

import math

import pytest
import torch

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.perturbation import TOLERANCE, check_result, perturbation_size, tolerance

SHAPES = [(1, 8, 8), (3, 32, 32), (3, 224, 224)]


def _at(norm: str, size: float, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (8, C, H, W), and others at this distance from them, in float32."""
    generator = torch.Generator().manual_seed(0)
    images = 0.25 + 0.5 * torch.rand(8, *shape, generator=generator)
    delta = torch.randn(8, *shape, generator=generator).double()
    delta *= size / perturbation_size(delta, norm)[:, None, None, None]
    return images, (images.double() + delta).float()


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-2, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_s_rounding_is_tolerated(norm, epsilon, shape):
    images, adversarial = _at(norm, epsilon, shape)
    check_result("an attack", adversarial, images, norm=norm, epsilon=epsilon)


@pytest.mark.parametrize(("norm", "epsilon"), [("L2", 1e-3), ("L1", 0.1)])
def test_a_hundredth_of_a_tiny_radius_is_not(norm, epsilon):
    images, adversarial = _at(norm, 1.02 * epsilon, (3, 16, 16))
    with pytest.raises(IbrobustError, match="more than epsilon"):
        check_result("an attack", adversarial, images, norm=norm, epsilon=epsilon)


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 8 / 255), ("L2", 0.5), ("L1", 12.0), ("L0", 0.1)])
def test_the_tolerance_at_usual_radii_is_fixed(norm, epsilon):
    assert tolerance(norm, epsilon, 3072) == TOLERANCE[norm]


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_the_tolerance_at_a_tiny_radius_is_the_rounding_of_float32(norm):
    """At epsilon 1e-5 on 3 x 224 x 224, a rounding of 6e-8 per pixel is more than a thousandth of the radius."""
    pixels = 3 * 224 * 224
    assert tolerance(norm, 1e-5, pixels) == pytest.approx(6e-8 * (pixels**0.5 if norm == "L2" else pixels))


def test_l0_is_the_share_of_pixels_however_many_of_their_channels_changed():
    delta = torch.zeros(2, 3, 4, 4)
    delta[0, 1, 1, 2], delta[1, :, 1, 2] = 0.5, 0.5
    assert perturbation_size(delta, "L0").tolist() == [1 / 16, 1 / 16]


def test_pixels_that_are_nan_are_named_before_their_distance():
    images = torch.full((2, 1, 2, 2), 0.5)
    adversarial = images.clone()
    adversarial[1, 0, 0, 0] = torch.nan
    with pytest.raises(IbrobustError, match="Mine gave NaN or infinite pixels for 1 images"):
        check_result("Mine", adversarial, images, norm="L2", epsilon=math.inf)
