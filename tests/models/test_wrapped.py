"""Models of another input size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibrobust import IbrobustError, fgsm_sweep, load_model, logits_of, normalized, resized, run_attacks, two_logits
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


@pytest.mark.parametrize("size", [0, (4, 0), (4.0, 4), True, "224", (4, 4, 4)])
def test_a_size_that_is_none(size):
    with pytest.raises(IbrobustError, match="is not a number of pixels"):
        resized(nn.Flatten(), size)


@pytest.mark.parametrize(
    ("mean", "std", "said"), [([0.0, 125.0], [0.25] * 2, "125 and 0.25"), ([0.0] * 2, [1.0, 255.0], "0 and 255")]
)
def test_the_numbers_of_pixels_up_to_255_are_refused(mean, std, said):
    with pytest.raises(IbrobustError, match=f"go up to {said}, but the images are in .0, 1.: divide both by 255"):
        normalized(nn.Flatten(), mean, std)


def test_it_goes_around_a_normalisation():
    model = resized(normalized(nn.Flatten(), [0.5], [0.5]), 2)
    assert model(torch.ones(1, 1, 4, 4)).tolist() == [[1.0] * 4]


@pytest.mark.parametrize("output", [(1, 2), {"scores": 1}])
def test_an_output_without_logits_is_refused_with_the_remedy(output):
    class Network(nn.Module):
        def forward(self, images):
            return output

    with pytest.raises(IbrobustError, match="gives a (tuple|dict) without logits: leave out logits_of"):
        logits_of(Network())(torch.rand(1, 3, 1, 1))


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


class Net(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.seen = []
        layer = nn.Conv2d(3, 4, 8)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)) / 4)
            layer.bias.zero_()
        self.layer = layer.to(dtype)

    def forward(self, images):
        self.seen.append(images)
        return self.layer(images).flatten(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: normalized(net, [0.485, 0.456, 0.406], [0.2, 0.2, 0.2]),
        lambda net: resized(net, 8),
        lambda net: resized(normalized(net, [0.485, 0.456, 0.406], [0.2, 0.2, 0.2]), 8),
        lambda net: normalized(resized(net, 8), [0.485, 0.456, 0.406], [0.2, 0.2, 0.2]),
    ],
    ids=["normalized", "resized", "both", "both inside out"],
)
def test_a_model_in_another_precision_is_attacked(wrap, dtype):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 3, 8, 8, generator=generator)
    net = Net(dtype)
    model, same = wrap(net), wrap(Net(torch.float32))
    with torch.no_grad():
        labels = same(images).argmax(1)
    (result,) = run_attacks(model, images, labels, attacks="PGD:steps=2", epsilons=0.1)
    assert result.clean_accuracy > 0.8 > result.robust_accuracy
    assert net.seen[-1].dtype == dtype
    # The wrappers compute in float32, and round once.
    net.seen.clear()
    points = images.to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    model(points).sum().backward()
    with torch.no_grad():
        same(images)
    assert points.grad is not None
    assert points.grad.dtype == points.dtype
    assert (points.grad != 0).float().mean() > 0.9
    if dtype != torch.float64:
        assert torch.equal(net.seen[0], list(same.modules())[-2].seen[-1].to(dtype))


def test_a_half_model_that_is_wrapped_before_it_is_halved_is_attacked():
    model = normalized(Net(torch.float32), [0.5] * 3, [0.25] * 3).half()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    (result,) = run_attacks(model, images, [0] * 4, attacks="PGD:steps=2", epsilons=0.1)
    assert result.total == 4
