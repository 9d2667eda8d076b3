from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ibrobust.errors import IbrobustError
from ibrobust.models import Encoder, SampledClassifier


class Fixed(nn.Module):
    """An encoder that gives the same Gaussian, N(1, e^2), for every image."""

    latent_dim = 2

    def forward(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), 2) + 0.0 * images.sum()


def binary_head() -> nn.Linear:
    head = nn.Linear(1, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [0.0]]))
        head.bias.zero_()
    return head


def small(num_samples: int, seed: int = 0) -> SampledClassifier:
    torch.manual_seed(0)
    return SampledClassifier(Encoder(width=2, latent_dim=8), nn.Linear(4, 3), num_samples=num_samples, seed=seed).eval()


IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_probabilities_are_the_mean_over_the_latents_distribution():
    model = SampledClassifier(Fixed(), binary_head(), num_samples=4000)
    probabilities = model(IMAGES[:1]).detach().exp()
    grid = torch.linspace(-40, 40, 80_001)
    expected = (torch.sigmoid(grid) * Normal(1.0, math.e).log_prob(grid).exp() * 0.001).sum()
    # A probability's standard deviation is below 1/2.
    assert abs(float(probabilities[0, 0]) - float(expected)) < 4 * 0.5 / math.sqrt(4000)


def test_equals_a_loop_over_the_draws():
    model = small(3)
    mean, log_std = model.encoder(IMAGES).chunk(2, dim=1)
    rows = [model.decoder(mean + log_std.exp() * draw).softmax(dim=1) for draw in model.draws]
    assert torch.allclose(model(IMAGES).exp(), torch.stack(rows).mean(dim=0), atol=1e-6)


def test_is_deterministic_and_takes_its_draws_from_the_seed():
    assert torch.equal(small(3)(IMAGES), small(3)(IMAGES))
    assert not torch.equal(small(3)(IMAGES), small(3, seed=1)(IMAGES))


def test_an_image_does_not_depend_on_those_beside_it():
    model = small(3)
    assert torch.allclose(model(IMAGES)[2:3], model(IMAGES[2:3]), atol=1e-5)


def test_no_samples_are_refused():
    with pytest.raises(IbrobustError, match="num_samples is 0"):
        small(0)


def test_an_encoder_of_points_is_refused():
    with pytest.raises(IbrobustError, match="3 outputs"):
        SampledClassifier(Encoder(width=2, latent_dim=3), nn.Linear(1, 3))


def test_a_model_in_float64_has_logits_in_float64():
    logits = small(3).double()(IMAGES.double())
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), small(3)(IMAGES))
