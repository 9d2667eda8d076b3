from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ibrobust.errors import IbrobustError
from ibrobust.models import Encoder, ImageClassifier
from ibrobust.models.encoder import BasicBlock, fast_memory_format

# Of the usual CIFAR ResNet18 with a 10-class linear layer on its 512 pooled features.
RESNET18_PARAMETERS = 11_173_962


def small(seed: int = 0) -> ImageClassifier:
    torch.manual_seed(seed)
    return ImageClassifier(Encoder(width=4, latent_dim=8), nn.Linear(8, 3)).eval()


def test_the_standard_width_has_the_usual_number_of_parameters():
    model = ImageClassifier(Encoder(width=64, latent_dim=None), nn.Linear(512, 10))
    assert sum(parameter.numel() for parameter in model.parameters()) == RESNET18_PARAMETERS


def test_the_network_equals_torchvisions_resnet18_with_a_cifar_stem():
    """An independent ResNet18: torchvision's, its stem and pooling replaced, given the same weights in order."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    ours = Encoder(width=64, latent_dim=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()
    theirs = resnet18()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    theirs.fc = nn.Identity()
    theirs.eval()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_normalisation_is_inside():
    torch.manual_seed(0)
    plain = Encoder(width=4, latent_dim=8, mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    normalising = Encoder(width=4, latent_dim=8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).eval()
    normalising.load_state_dict({**plain.state_dict(), "mean": normalising.mean, "std": normalising.std})
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    expected = plain((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(normalising(images), expected)


def test_other_image_sizes_are_taken():
    assert Encoder(width=4, latent_dim=8).eval()(torch.rand(2, 3, 48, 40)).shape == (2, 8)


def test_evaluation_is_deterministic():
    model, images = small(), torch.rand(4, 3, 32, 32)
    assert torch.equal(model(images), model(images))


def test_logits_do_not_depend_on_the_other_images_of_a_batch():
    model, images = small(), torch.rand(6, 3, 32, 32)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-5, atol=1e-6)


def test_the_gradient_with_respect_to_the_images_is_that_of_central_differences():
    model = small().double()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: model(x)[:, 0].sum(), images, eps=1e-6, atol=1e-5)


def test_a_deep_copy_gives_the_same_logits():
    model, images = small(), torch.rand(2, 3, 32, 32)
    assert torch.equal(copy.deepcopy(model)(images), model(images))


def test_the_memory_format_changes_nothing_but_rounding():
    model, images = small(), torch.rand(2, 3, 32, 32)
    before = model(images)
    torch.testing.assert_close(model.to_fast_memory_format()(images), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "device", "expected"),
    [
        (16, "cpu", torch.channels_last),
        (64, "cpu", torch.contiguous_format),
        (64, "cuda", torch.channels_last),
    ],
)
def test_the_memory_format_follows_width_and_device(width, device, expected):
    with torch.device("meta"):
        encoder = Encoder(width=width)
    assert fast_memory_format(encoder, torch.device(device)) is expected


@pytest.mark.parametrize("width", [1, 4, 8, 12, 16, 24])
def test_no_strided_1x1_convolution_has_few_channels(width):
    """Their gradients are wrong in channels_last, on some processors only."""
    with torch.device("meta"):
        encoder = Encoder(width=width)
    pointwise = [each for each in encoder.modules() if isinstance(each, nn.Conv2d) and each.kernel_size == (1, 1)]
    assert len(pointwise) == 3
    assert [each for each in pointwise if each.stride != (1, 1) and each.in_channels < 16] == []


@pytest.mark.parametrize("size", [8, 7])
def test_a_narrow_blocks_shortcut_is_the_strided_convolution(size):
    torch.manual_seed(0)
    block = BasicBlock(4, 8, stride=2).double().eval()
    x = torch.randn(2, 4, size, size, dtype=torch.float64)
    convolution, norm = block.shortcut
    out = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    expected = F.relu(out + norm(F.conv2d(x, convolution.weight, stride=2)))
    torch.testing.assert_close(block(x), expected)


def test_a_gaussian_encoders_latents_are_its_means():
    torch.manual_seed(0)
    encoder = Encoder(width=4, latent_dim=16).eval()
    model = ImageClassifier(encoder, nn.Linear(8, 3), latent_dim=8)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.latents(images), encoder(images)[:, :8])


def test_a_constant_channel_is_refused():
    with pytest.raises(IbrobustError, match="standard deviation 0"):
        Encoder(width=4, std=(0.2, 0.0, 0.2))


def test_width_zero_is_refused():
    with pytest.raises(IbrobustError, match="width 0"):
        Encoder(width=0)
