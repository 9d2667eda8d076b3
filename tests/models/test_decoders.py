from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from ibrobust.errors import IbrobustError
from ibrobust.full_precision import default_dtype
from ibrobust.models import (
    FITTED_DECODERS,
    HEAD,
    ResFCDecoder,
    build_decoder,
    decoder_name,
    fit_decoder,
    fit_gaussian_mixture,
    fit_logistic,
    fit_resfc,
)

FIT = {
    "gaussian_mixture": fit_gaussian_mixture,
    "logistic": fit_logistic,
    "resfc": partial(fit_resfc, seed=0, units=8, epochs=1),
}


@pytest.fixture(scope="module")
def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping Gaussian clouds in 5 dimensions, each with a covariance of its own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(200)
    shapes = torch.randn(3, 5, 5, generator=generator)
    points = torch.einsum("nij,nj->ni", shapes[labels], torch.randn(600, 5, generator=generator))
    return points + torch.randn(3, 5, generator=generator)[labels], labels


@pytest.mark.parametrize("name", ["gaussian_mixture", "logistic", "resfc"])
def test_a_decoder_is_the_same_with_another_default_dtype(clouds, name):
    fitted = []
    for dtype in (torch.float32, torch.float64):
        with default_dtype(dtype):
            fitted.append(FIT[name](*clouds, 3).state_dict())
    for key, expected in fitted[0].items():
        assert fitted[1][key].dtype == expected.dtype
        assert torch.equal(fitted[1][key], expected)


@pytest.mark.parametrize("counts", [(200, 200, 200), (150, 60, 30)])
def test_gaussian_logits_are_scipys_log_likelihoods_and_the_priors(clouds, counts):
    from scipy.stats import multivariate_normal

    chosen = torch.cat([200 * label + torch.arange(count) for label, count in enumerate(counts)])
    points, labels = clouds[0][chosen], clouds[1][chosen]
    decoder = fit_gaussian_mixture(points, labels, 3, ridge=0.0, attackable=False)
    logits = decoder(points)
    for label in range(3):
        members = points[labels == label].double()
        covariance = torch.cov(members.T, correction=0)
        expected = multivariate_normal(members.mean(0).numpy(), covariance.numpy()).logpdf(points.double().numpy())
        expected += math.log(3 * counts[label] / sum(counts))
        torch.testing.assert_close(logits[:, label].double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_gaussian_predictions_are_those_of_quadratic_discriminant_analysis(clouds):
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    points, labels = clouds
    theirs = QuadraticDiscriminantAnalysis(priors=[1 / 3] * 3).fit(points.double().numpy(), labels.numpy())
    ours = fit_gaussian_mixture(points, labels, 3, ridge=0.0)(points).argmax(1)
    # scikit-learn divides by n - 1, which moves images on the boundary only.
    assert int((ours != torch.from_numpy(theirs.predict(points.double().numpy()))).sum()) <= 2


def test_the_regulariser_is_what_is_stated(clouds):
    points, labels = clouds
    decoder = fit_gaussian_mixture(points, labels, 3, noise_variance=0.2, ridge=0.1)
    members = points[labels == 1].double()
    covariance = torch.cov(members.T, correction=0)
    traces = [torch.cov(points[labels == label].double().T, correction=0).trace() for label in range(3)]
    expected = covariance + (0.2 + 0.1 * sum(traces) / 3 / 5) * torch.eye(5)
    precision = decoder.whitening[1].T @ decoder.whitening[1]
    torch.testing.assert_close(precision.double(), expected.inverse(), rtol=1e-4, atol=1e-5)


def test_dimensions_without_variance_do_not_decide():
    """Classes of different spread in 4 of 32 dimensions: the 28 empty ones must not outvote them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(300)
    points = torch.zeros(600, 32)
    centres, spread = torch.tensor([[0.0] * 4, [8.0] * 4]), torch.tensor([1.0, 2.0])
    points[:, :4] = centres[labels] + spread[labels, None] * torch.randn(600, 4, generator=generator)
    predictions = fit_gaussian_mixture(points, labels, 2)(points).argmax(1)
    assert float((predictions == labels).float().mean()) > 0.99


def test_the_noise_variance_equals_fitting_noisy_latents(clouds):
    points, labels = clouds
    generator = torch.Generator().manual_seed(1)
    many, many_labels = points.repeat(200, 1), labels.repeat(200)
    noisy = many + 0.5 * torch.randn(many.shape, generator=generator)
    drawn = fit_gaussian_mixture(noisy, many_labels, 3, ridge=0.0, attackable=False)(points)
    closed = fit_gaussian_mixture(points, labels, 3, noise_variance=0.25, ridge=0.0, attackable=False)(points)
    torch.testing.assert_close(closed, drawn, rtol=0.02, atol=0.1)


def test_a_class_with_fewer_points_than_dimensions_has_finite_logits():
    points, labels = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), torch.arange(2).repeat(3)
    assert bool(fit_gaussian_mixture(points, labels, 2)(points).isfinite().all())


def test_a_class_with_one_point_is_refused():
    with pytest.raises(IbrobustError, match="Class 1 has 1"):
        fit_gaussian_mixture(torch.rand(5, 2), torch.tensor([0, 0, 0, 0, 1]), 2)


def test_a_collapsed_class_without_regulariser_is_refused():
    with pytest.raises(IbrobustError, match="class 0 is not positive definite"):
        fit_gaussian_mixture(torch.ones(6, 2), torch.arange(2).repeat(3), 2, ridge=0.0)


def largest_gradient_of_the_penalised_loss(decoder: nn.Linear, points: torch.Tensor, labels: torch.Tensor) -> float:
    """Of the summed cross-entropy with half the squared weights, in the standardised space of the fit."""
    scale = points.double().std(0, correction=0)
    weight = (decoder.weight.detach().double() * scale).requires_grad_()
    bias = (
        decoder.bias.detach().double() + decoder.weight.detach().double() @ points.double().mean(0)
    ).requires_grad_()
    standard = (points.double() - points.double().mean(0)) / scale
    loss = (
        nn.functional.cross_entropy(standard @ weight.T + bias, labels, reduction="sum") + 0.5 * weight.square().sum()
    )
    return max(float(gradient.abs().max()) for gradient in torch.autograd.grad(loss, [weight, bias]))


def test_logistic_regression_is_at_the_minimum_of_its_penalised_loss(clouds):
    assert largest_gradient_of_the_penalised_loss(fit_logistic(*clouds, 3), *clouds) < 0.1


@pytest.mark.parametrize("c", [3.0, 1e10])
def test_another_penalty_would_be_noticed(clouds, c, monkeypatch):
    monkeypatch.setattr("sklearn.linear_model.LogisticRegression", partial(LogisticRegression, C=c))  # 1 / penalty
    assert largest_gradient_of_the_penalised_loss(fit_logistic(*clouds, 3), *clouds) > 0.1


def test_logistic_regression_of_two_classes_separates_them():
    points = torch.cat([torch.randn(50, 3) - 4, torch.randn(50, 3) + 4])
    labels = torch.arange(2).repeat_interleave(50)
    assert torch.equal(fit_logistic(points, labels, 2)(points).argmax(1), labels)


def test_a_constant_latent_does_not_spoil_logistic_regression(clouds):
    points, labels = clouds
    padded = torch.cat([points, torch.ones(len(points), 1)], dim=1)
    torch.testing.assert_close(
        fit_logistic(padded, labels, 3)(padded), fit_logistic(points, labels, 3)(points), rtol=1e-3, atol=1e-3
    )


def test_a_missing_class_is_refused_by_logistic_regression():
    with pytest.raises(IbrobustError, match="2 of 3 classes"):
        fit_logistic(torch.rand(6, 2), torch.arange(2).repeat(3), 3)


@pytest.mark.parametrize(("labels", "outside"), [([0, 2, 4], 4), ([-1, 0, 1], -1)])
def test_a_label_that_is_no_class_is_refused_by_logistic_regression(labels, outside):
    with pytest.raises(IbrobustError, match=f"A label is {outside}, and there are 3 classes: give labels from 0 to 2"):
        fit_logistic(torch.rand(6, 2), torch.tensor(labels).repeat(2), 3)


def test_resfc_has_the_papers_layers():
    decoder = ResFCDecoder(256, 10)
    kinds = [type(module).__name__ for module in decoder.modules() if not list(module.children())]
    block = ["BatchNorm1d", "Linear", "BatchNorm1d", "Linear"]
    assert kinds == ["Linear", *block * 5, "BatchNorm1d", "Linear"]
    assert {module.out_features for module in decoder.modules() if isinstance(module, nn.Linear)} == {
        1024,
        10,
    }


def test_resfc_computes_the_papers_formula():
    torch.manual_seed(0)
    decoder = ResFCDecoder(4, 3, units=8, num_blocks=1).eval()
    latents = torch.rand(5, 4)
    hidden = decoder.stem(latents)
    block = decoder.blocks[0]
    hidden = hidden + block.linear2(torch.relu(block.bn2(block.linear1(torch.relu(block.bn1(hidden))))))
    assert torch.equal(decoder(latents), decoder.output(decoder.bn(hidden)))


def test_resfc_fits_and_a_seed_gives_the_same_weights_twice(clouds):
    points, labels = clouds
    first, second = (fit_resfc(points, labels, 3, seed=5, epochs=1, batch_size=60) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert float((first(points).argmax(1) == labels).float().mean()) > 0.6


def test_fitting_resfc_leaves_the_random_state_alone(clouds):
    points, labels = clouds
    before = torch.get_rng_state()
    fit_resfc(points, labels, 3, seed=5, epochs=1, batch_size=300)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", FITTED_DECODERS)
def test_a_rebuilt_decoder_with_the_fitted_weights_gives_the_same_logits(name, clouds):
    points, labels = clouds[0][::6], clouds[1][::6]
    fitted = fit_decoder(name, points, labels, 3, noise_variance=0.0, seed=0, resfc_units=24).eval()
    rebuilt = build_decoder(name, fitted.state_dict(), latent_dim=5, num_classes=3).eval()
    rebuilt.load_state_dict(fitted.state_dict())
    assert torch.equal(rebuilt(points), fitted(points))


@pytest.mark.parametrize("name", [*FITTED_DECODERS, HEAD])
def test_a_decoder_knows_its_name(name):
    assert decoder_name(build_decoder(name, {}, latent_dim=5, num_classes=3)) == name


def test_a_decoder_of_another_kind_has_no_name():
    with pytest.raises(IbrobustError, match="Sequential cannot be stored"):
        decoder_name(nn.Sequential(nn.Linear(5, 3)))


@pytest.fixture(scope="module")
def far_clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Ten clouds in 64 dimensions whose log-likelihoods lie hundreds of nats apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10).repeat_interleave(100)
    centres = 4.0 * torch.randn(10, 64, generator=generator)
    return centres[labels] + torch.randn(1000, 64, generator=generator), labels


def cross_entropy_gradient(decoder: nn.Module, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    points = points.clone().requires_grad_()
    return torch.autograd.grad(nn.functional.cross_entropy(decoder(points), labels), points)[0]


def test_log_likelihoods_as_logits_hide_the_gradient(far_clouds):
    """The trap itself: without a temperature most gradients are exactly zero."""
    decoder = fit_gaussian_mixture(*far_clouds, 10, attackable=False)
    zero = (cross_entropy_gradient(decoder, *far_clouds) == 0).all(dim=1)
    assert float(zero.float().mean()) > 0.9


def test_the_temperature_brings_every_gradient_back(far_clouds):
    decoder = fit_gaussian_mixture(*far_clouds, 10)
    zero = (cross_entropy_gradient(decoder, *far_clouds) == 0).all(dim=1)
    assert not bool(zero.any())


def test_the_temperature_changes_no_prediction(far_clouds, clouds):
    for (points, labels), count in ((far_clouds, 10), (clouds, 3)):
        plain = fit_gaussian_mixture(points, labels, count, attackable=False)(points)
        assert torch.equal(fit_gaussian_mixture(points, labels, count)(points).argmax(1), plain.argmax(1))


def test_the_temperature_brings_the_99th_percentile_of_margins_to_ten_nats(far_clouds):
    top = fit_gaussian_mixture(*far_clouds, 10)(far_clouds[0]).topk(2, dim=1).values
    assert float((top[:, 0] - top[:, 1]).quantile(0.99)) == pytest.approx(10.0, rel=1e-4)


def test_small_margins_are_left_as_they_are():
    points, labels = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)), torch.arange(2).repeat(200)
    assert float(fit_gaussian_mixture(points, labels, 2).temperature) == 1.0
