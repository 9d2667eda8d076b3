from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ibrobust.errors import IbrobustError
from ibrobust.objectives.conditional_bottleneck import ConditionalBottleneck
from ibrobust.objectives.gaussians import gaussian_kl, split_gaussian
from ibrobust.objectives.variational import VariationalBottleneck, sampled_cross_entropy


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_to_the_unit_gaussian_equals_torchs():
    mean, log_std = draw(20, 7), draw(20, 7, seed=1)
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(gaussian_kl(mean, log_std, torch.zeros(7), torch.zeros(7)), expected, rtol=1e-12)


def test_kl_between_gaussians_equals_torchs():
    mean, log_std, other, other_log_std = (draw(20, 7, seed=seed) for seed in range(4))
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(other, other_log_std.exp())).sum(1)
    assert torch.allclose(gaussian_kl(mean, log_std, other, other_log_std), expected, rtol=1e-12)


def test_kl_of_equal_gaussians_is_zero():
    mean, log_std = draw(5, 3), draw(5, 3, seed=1)
    assert torch.equal(gaussian_kl(mean, log_std, mean, log_std), torch.zeros(5, dtype=torch.float64))


def test_kl_gradcheck():
    inputs = [draw(4, 3, seed=seed).requires_grad_() for seed in range(4)]
    assert torch.autograd.gradcheck(gaussian_kl, inputs)


def test_outputs_are_the_mean_first():
    mean, log_std = split_gaussian(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert mean.tolist() == [[1.0, 2.0]]
    assert log_std.tolist() == [[3.0, 4.0]]


def test_half_precision_outputs_are_widened():
    outputs = torch.full((2, 4), 9.0, dtype=torch.float16)
    mean, log_std = split_gaussian(outputs)
    assert bool(gaussian_kl(mean, log_std, torch.zeros(2), torch.zeros(2)).isfinite().all())


def certain(mean: Tensor) -> Tensor:
    """Encoder outputs whose latents have almost no spread."""
    return torch.cat([mean, torch.full_like(mean, -30.0)], dim=1)


def test_dvib_is_cross_entropy_plus_beta_kl():
    torch.manual_seed(0)
    objective = VariationalBottleneck(latent_dim=4, num_classes=3, beta=0.25)
    mean, labels = torch.randn(10, 4), torch.arange(10) % 3
    loss = objective(certain(mean), labels)
    decoding = torch.nn.functional.cross_entropy(objective.head(mean), labels)
    rate = kl_divergence(Normal(mean, math.exp(-30.0)), Normal(0.0, 1.0)).sum(1).mean()
    assert float(loss.total.detach()) == pytest.approx(float((decoding + 0.25 * rate).detach()), rel=1e-5)
    assert float(loss.terms["I[X;Z]"]) == pytest.approx(float(rate), rel=1e-5)
    assert float(loss.terms["H[Y|Z]"]) == pytest.approx(float(decoding.detach()), rel=1e-5)


def test_dvib_trains_on_samples_of_the_encoder():
    # Logits z and 0 with z ~ N(0, s^2): E[-log sigmoid(z)] by quadrature.
    objective = VariationalBottleneck(latent_dim=1, num_classes=2, beta=0.0)
    with torch.no_grad():
        objective.head.weight.copy_(torch.tensor([[1.0], [0.0]]))
        objective.head.bias.zero_()
    outputs = torch.tensor([[0.0, math.log(3.0)]]).expand(40_000, 2)
    torch.manual_seed(0)
    value = float(objective(outputs, torch.zeros(40_000, dtype=torch.long)).total.detach())
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    losses = torch.nn.functional.softplus(-grid)
    weights = Normal(0.0, 3.0).log_prob(grid).exp() * 0.001
    expected, square = float((losses * weights).sum()), float((losses.square() * weights).sum())
    assert abs(value - expected) < 4 * math.sqrt((square - expected**2) / 40_000)


def test_the_cross_entropy_is_the_mean_over_as_many_samples_as_asked_for():
    """The samples themselves are the two logits: -log q of the first class is log(1 + exp(z_2 - z_1))."""
    zeros = torch.zeros(1, 2)
    torch.manual_seed(0)
    found = sampled_cross_entropy(torch.nn.Identity(), zeros, zeros, torch.tensor([0]), 50)
    torch.manual_seed(0)
    samples = torch.cat([torch.randn(1, 2) for _ in range(50)])
    expected = torch.log1p((samples[:, 1] - samples[:, 0]).exp()).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_ceb_residual_of_gaussians_of_known_moments():
    # Within a class the encoder's mean is N(m_y, s_y^2) and its noise sigma: z | y is N(m_y, s_y^2 + sigma^2). With the
    # backward encoder at those moments the bound is tight: I[X; Z | y] = log(1 + s_y^2 / sigma^2) / 2 a dimension.
    count, dim, sigma = 20_000, 3, 0.5
    spread = torch.tensor([1.0, 0.2], dtype=torch.float64)
    centre = torch.tensor([4.0, -3.0], dtype=torch.float64)
    labels = torch.arange(count) % 2
    mean = centre[labels, None] + spread[labels, None] * draw(count, dim)
    objective = ConditionalBottleneck(latent_dim=dim, num_classes=2, beta=1.0).double()
    with torch.no_grad():
        objective.class_means.copy_(centre[:, None].expand(2, dim))
        objective.class_log_stds.copy_(0.5 * (spread.square() + sigma**2).log()[:, None].expand(2, dim))
        outputs = torch.cat([mean, torch.full_like(mean, math.log(sigma))], dim=1)
        for label in range(2):
            own = outputs[labels == label]
            residual = objective(own, torch.full((len(own),), label)).terms["I[X;Z|Y]"]
            information = 0.5 * dim * math.log1p(float(spread[label]) ** 2 / sigma**2)
            # Of an image: a linear function of a chi-squared of one degree a dimension, whose variance is 2.
            deviation = 0.5 * float(spread[label]) ** 2 / (float(spread[label]) ** 2 + sigma**2) * math.sqrt(2 * dim)
            assert abs(float(residual) - information) < 4 * deviation / math.sqrt(len(own))


def test_ceb_learns_the_moments_that_make_its_bound_tight():
    torch.manual_seed(0)
    labels = torch.arange(600) % 2
    outputs = certain(torch.randn(600, 2) * torch.tensor([1.0, 0.2])[labels, None] + labels[:, None])
    objective = ConditionalBottleneck(latent_dim=2, num_classes=2, beta=1.0)
    for parameter in objective.head.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(
        [objective.class_means, objective.class_log_stds], max_iter=100, line_search_fn="strong_wolfe"
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = objective(outputs, labels).total
        loss.backward()
        return loss

    optimizer.step(step)
    for label in range(2):
        own = outputs[labels == label, :2]
        assert torch.allclose(objective.class_means[label], own.mean(0), atol=1e-3)
        assert torch.allclose(objective.class_log_stds[label].exp(), own.std(0, unbiased=False), rtol=1e-2)


def test_ceb_is_cross_entropy_plus_beta_residual():
    torch.manual_seed(0)
    objective = ConditionalBottleneck(latent_dim=4, num_classes=3, beta=0.5)
    mean, labels = torch.randn(10, 4), torch.arange(10) % 3
    loss = objective(certain(mean), labels)
    decoding = torch.nn.functional.cross_entropy(objective.head(mean), labels)
    residual = kl_divergence(Normal(mean, math.exp(-30.0)), Normal(0.0, 1.0)).sum(1).mean()
    assert float(loss.total.detach()) == pytest.approx(float((decoding + 0.5 * residual).detach()), rel=1e-5)
    assert float(loss.terms["I[X;Z|Y]"]) == pytest.approx(float(residual), rel=1e-5)


def test_no_samples_are_refused():
    with pytest.raises(IbrobustError, match="num_samples is 0"):
        VariationalBottleneck(latent_dim=2, num_classes=2, beta=0.1, num_samples=0)


def test_divergence_of_nearly_equal_gaussians_is_not_lost_to_rounding():
    log_std = 1e-4 * torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(100, 1)
    expected = gaussian_kl(*(part.double() for part in (zero, log_std, zero, zero)))
    assert torch.allclose(gaussian_kl(zero, log_std, zero, zero).double(), expected, rtol=0.0, atol=1e-10)
