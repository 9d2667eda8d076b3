"""Models of another input size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibrobust import IbrobustError, fgsm_sweep, load_model, normalized, resized, two_logits
from ibrobust.evaluation.bfloat16.copy import low_precision_copy


def test_images_are_scaled_inside_the_model_and_attacked_outside():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)).eval()
    model = resized(inner, 12)
    images = torch.rand(5, 3, 6, 6)
    expected = nn.functional.interpolate(images, size=(12, 12), mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(model(images), inner(expected))
        labels = model(images).argmax(1)
    assert fgsm_sweep(model, images, labels, 0.0).clean_accuracy == 1.0
    # The scaling is linear, so the gradient is its transpose: a step of FGSM is a step at the images' own size.
    points = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(points), labels), points)
    weaker = (images + 0.2 * gradient.sign()).clamp(0, 1)
    with torch.no_grad():
        found = (model(weaker).argmax(1) == labels).float().mean()
    assert fgsm_sweep(model, images, labels, 0.2).accuracy[0] == pytest.approx(float(found))


def test_smaller_images_are_averaged():
    model = resized(nn.Flatten(), (1, 2))
    image = torch.tensor([[[[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]]])
    assert model(image).tolist()[0][0] > model(image).tolist()[0][1] > 0


@pytest.mark.parametrize("size", [0, (4, 0), (4.0, 4), True])
def test_a_size_that_is_none(size):
    with pytest.raises(IbrobustError, match="is not a number of pixels"):
        resized(nn.Flatten(), size)


def test_it_goes_around_a_normalisation():
    model = resized(normalized(nn.Flatten(), [0.5], [0.5]), 2)
    assert model(torch.ones(1, 1, 4, 4)).tolist() == [[1.0] * 4]


def test_a_model_with_two_logits_has_no_single_one():
    model = two_logits(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
    with pytest.raises(IbrobustError, match=r"gives \(4, 2\) for 4 images, not one logit each: leave out two_logits"):
        model(torch.rand(4, 3, 1, 1))


@pytest.mark.parametrize("flat", [True, False])
def test_a_model_with_one_logit_has_a_bfloat16_copy(flat):
    inner = nn.Sequential(nn.Conv2d(3, 1, 4), nn.Flatten(0 if flat else 1))
    assert low_precision_copy(two_logits(inner).eval(), torch.rand(1, 3, 4, 4)) is not None


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [((2, 1, 32, 32), "images.expand(-1, 3, -1, -1)"), ((2, 32, 32, 3), "images.permute(0, 3, 1, 2)")],
)
def test_a_model_refuses_images_of_other_channels(shape, remedy):
    channels_repeat = normalized(nn.Flatten(), [0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    for model in (load_model("knn_ib-digits"), channels_repeat):
        with pytest.raises(IbrobustError) as refused:
            fgsm_sweep(model, torch.rand(*shape), [0, 1], 0.1)
        assert f"give it {remedy}." in str(refused.value)


def test_a_single_mean_is_for_all_channels():
    assert normalized(nn.Flatten(), [0.5], [0.5])(torch.ones(1, 3, 1, 1)).tolist() == [[1.0, 1.0, 1.0]]
