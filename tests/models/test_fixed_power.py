from __future__ import annotations

import pytest
import torch

from ibrobust.models import Encoder, FixedPower


@pytest.fixture
def latents() -> torch.Tensor:
    return 100.0 + 7.0 * torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7.0)


def test_a_training_batch_has_no_mean_and_unit_power(latents):
    z = FixedPower(6).train()(latents)
    torch.testing.assert_close(z.mean(0), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0))


def test_dimensions_keep_their_proportions(latents):
    z = FixedPower(6).train()(latents)
    torch.testing.assert_close(z.std(0) / z.std(0)[0], latents.std(0) / latents.std(0)[0])


def test_evaluation_uses_the_statistics_of_training(latents):
    layer = FixedPower(6).train()
    for _ in range(200):
        expected = layer(latents)
    torch.testing.assert_close(layer.eval()(latents), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batches", [1, 3, 10])
def test_the_initial_statistics_have_no_weight(latents, batches):
    layer = FixedPower(6).train()
    parts = latents[: 40 * batches].split(40)
    for part in parts:
        layer(part)
    means = torch.stack([part.mean(0) for part in parts])
    powers = torch.stack([(part - part.mean(0)).square().mean() for part in parts])
    torch.testing.assert_close(layer.running_mean, means.mean(0))
    torch.testing.assert_close(layer.running_power, powers.mean())


def test_later_batches_have_a_tenth_each(latents):
    layer = FixedPower(6).train()
    for _ in range(10):
        layer(latents)
    before = layer.running_mean.clone()
    layer(latents + 1)
    torch.testing.assert_close(layer.running_mean, before + 0.1)


def test_statistics_that_were_stored_without_a_number_of_batches_are_of_many(latents):
    layer = FixedPower(6).train()
    layer(latents)
    stored = {name: tensor for name, tensor in layer.state_dict().items() if name != "num_batches"}
    later = FixedPower(6).train()
    later.load_state_dict(stored)
    later(latents + 1)
    torch.testing.assert_close(later.running_mean, layer.running_mean + 0.1)


def test_evaluation_encodes_each_image_on_its_own(latents):
    layer = FixedPower(6).eval()
    assert torch.equal(layer(latents)[3:4], layer(latents[3:4]))


def test_equal_latents_stay_finite():
    layer = FixedPower(6).train()
    assert bool(layer(torch.ones(4, 6)).isfinite().all())
    assert bool(layer.eval()(torch.ones(4, 6)).isfinite().all())


def test_the_encoder_has_it_where_asked_for():
    torch.manual_seed(0)
    z = Encoder(width=2, latent_dim=8, fixed_power=True).train()(torch.rand(16, 3, 32, 32))
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0))
