from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from scipy.special import digamma
from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.estimators.mutual_information import mutual_information


def mixture(count: int, means: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(means)
    noise = torch.randn(count, means.shape[1], generator=generator, dtype=torch.float64)
    return means[labels] + noise, labels


def oracle(means: Tensor) -> float:
    """I[Y; Z] = log C + E[log p(y | z)] with the true posterior; its standard error is below 0.002 nats."""
    z, labels = mixture(200_000, means, seed=1)
    log_posterior = (-0.5 * torch.cdist(z, means).square()).log_softmax(dim=1)
    return math.log(len(means)) + float(log_posterior.gather(1, labels[:, None]).mean())


def tree_estimate(z: Tensor, labels: Tensor, k: int) -> float:
    """Ross's equation from SciPy's parts."""
    points, classes = z.numpy(), labels.numpy()
    everything, total = KDTree(points), 0.0
    for label in np.unique(classes):
        own = points[classes == label]
        radii = KDTree(own).query(own, k + 1)[0][:, k]
        inside = everything.query_ball_point(own, radii * (1 + 1e-10), return_length=True) - 1
        total += (digamma(k) - digamma(inside) - digamma(len(own))).sum()
    return float(digamma(len(points)) + total / len(points))


MIXTURES = [
    torch.tensor([[0.0], [1.5]]),
    torch.tensor([[0.0], [0.3], [4.0]]),
    torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]]),
    torch.tensor([[1.5, 0.0, 0.0], [0.0, 1.5, 0.0], [0.0, 0.0, 1.5]]),
]


@pytest.mark.parametrize("means", MIXTURES)
@pytest.mark.parametrize("k", [3, 10])
def test_mixtures_of_known_information(means: Tensor, k: int):
    means = means.double()
    estimate = mutual_information(*mixture(3000, means, seed=2), k)
    # Four standard errors, of which the stated one ignores that neighbouring points share their neighbours.
    assert abs(estimate.nats - oracle(means)) < 4 * 1.5 * estimate.error


@pytest.mark.parametrize(
    ("dim", "distance", "shown", "error", "true"),
    [
        (256, 4.0, 1.593, 0.012, 2.257),
        (256, 8.0, 2.303, 0.002, 2.303),
        (256, 0.0, -0.003, 0.012, 0.0),
        (16, 2.0, 1.202, 0.017, 1.375),
        (5, 2.0, 1.409, 0.019, 1.379),
        (5, 1.0, 0.489, 0.018, 0.454),
    ],
)
def test_the_table_of_the_page_on_the_method(dim: int, distance: float, shown: float, error: float, true: float):
    axes = torch.eye(dim, dtype=torch.float64)[:5]
    means = distance * torch.cat([axes, -axes])
    estimate = mutual_information(*mixture(3000, means))
    assert (estimate.nats, estimate.error) == pytest.approx((shown, error), abs=0.001)
    assert oracle(means) == pytest.approx(true, abs=0.002)


def test_equals_an_estimate_by_k_d_trees():
    z, labels = mixture(400, MIXTURES[2].double())
    assert mutual_information(z, labels, 4).nats == pytest.approx(tree_estimate(z, labels, 4), rel=1e-9)


@pytest.mark.parametrize("dim", [2, 256])
@pytest.mark.parametrize("k", [1, 3])
def test_separated_classes_give_log_c_within_the_stated_error(dim: int, k: int):
    means = 100 * torch.randn(10, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    estimate = mutual_information(*mixture(500, means), k)
    assert estimate.label_entropy == pytest.approx(math.log(10))
    assert math.log(10) - 1e-6 <= estimate.nats <= math.log(10) + estimate.error + 1e-12
    assert estimate.error < 0.02


@pytest.mark.parametrize("dim", [1, 256])
def test_independent_labels_give_nothing(dim: int):
    estimate = mutual_information(*mixture(2000, torch.zeros(10, dim, dtype=torch.float64)))
    assert abs(estimate.nats) < 4 * 1.5 * estimate.error


def test_unbalanced_separated_classes_give_the_entropy_of_the_labels():
    labels = torch.tensor([0] * 900 + [1] * 100)
    z = 50.0 * labels[:, None] + torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    estimate = mutual_information(z, labels)
    expected = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert estimate.label_entropy == pytest.approx(expected)
    assert expected <= estimate.nats <= expected + estimate.error


def test_information_is_invariant_to_scale_and_place():
    z, labels = mixture(300, MIXTURES[2].double())
    moved = mutual_information(1e3 * z + 1e5, labels)
    assert moved.nats == pytest.approx(mutual_information(z, labels).nats, abs=1e-9)


@pytest.mark.parametrize("apart", [1e8, 1e9])
def test_clusters_far_apart_tell_what_each_tells(apart: float):
    # Half of the points of both classes are moved as one.
    z, labels = mixture(400, MIXTURES[0].double())
    z = (z * 2.0**20).round() / 2.0**20  # the move is exact
    far = z.clone()
    far[torch.arange(400) // 2 % 2 == 1] += 2.0 ** round(math.log2(apart))
    assert mutual_information(far, labels).nats == pytest.approx(tree_estimate(far, labels, 3), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.uint16])
def test_the_dtype_of_labels_changes_nothing(dtype: torch.dtype):
    z, labels = mixture(600, MIXTURES[0].double())
    assert mutual_information(z.numpy(), labels.to(dtype), 3.0) == mutual_information(z, labels)


def test_coinciding_points_of_all_classes_tell_nothing():
    assert abs(mutual_information(torch.ones(100, 4), torch.arange(100) % 5).nats) < 0.05


def test_coinciding_points_of_each_class_tell_everything():
    labels = torch.arange(100) % 5
    estimate = mutual_information(labels[:, None].float(), labels)
    assert math.log(5) <= estimate.nats <= math.log(5) + estimate.error + 1e-12


@pytest.mark.parametrize(
    ("z", "labels", "k", "message"),
    [
        (torch.zeros(5), torch.zeros(5).long(), 1, "points have shape"),
        (torch.full((5, 2), math.nan), torch.zeros(5).long(), 1, "5 of the 5 points have NaN or infinite"),
        ([[math.nan], [1.0], [2.0], [3.0]], [0, 0, 1, 1], 1, "1 of the 4 points have NaN or infinite"),
        (torch.zeros(5, 2), torch.zeros(4).long(), 1, "labels have shape"),
        (torch.zeros(5, 2), torch.zeros(5), 1, "integers are needed"),
        (torch.zeros(5, 2), torch.zeros(5).long(), 0, "num_neighbors is 0"),
        (torch.zeros(5, 2), torch.tensor([0, 0, 0, 0, 1]), 1, "Class 1 has 1 point,"),
    ],
)
def test_bad_input_is_refused(z: Tensor, labels: Tensor, k: int, message: str):
    with pytest.raises(IbrobustError, match=message):
        mutual_information(z, labels, k)
