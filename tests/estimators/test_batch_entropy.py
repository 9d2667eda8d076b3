from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.special import digamma
from torch import Tensor

from ibrobust.estimators import conditional_knn_entropy, knn_entropy
from ibrobust.estimators.batch_entropy import batch_knn_entropies

LABELS = torch.tensor([0, 1, 2] * 8)


@pytest.fixture
def points() -> Tensor:
    return torch.randn(24, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def values(z: Tensor, labels: Tensor, **options: Any) -> list[float]:
    return [value.item() for value in batch_knn_entropies(z, labels, **options)]


def slow_estimate(points: Tensor, centre_count: int, candidates: list[list[int]], k: int, average: bool) -> float:
    """The estimate in plain Python: mean over the first points of psi(n) - psi(k) + log V + d log r_k."""
    dim = points.shape[1]
    log_volume = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1)
    values = []
    for i in range(centre_count):
        distances = sorted(float((points[i] - points[j]).norm()) for j in candidates[i] if j != i)
        if not distances:
            continue
        most = min(k, len(distances))
        ranks = range(1, most + 1) if average else [most]
        logs = [dim * math.log(distances[r - 1]) - digamma(r) for r in ranks]
        values.append(digamma(len(distances) + 1) + log_volume + sum(logs) / len(logs))
    return sum(values) / len(values)


@pytest.mark.parametrize("average", [False, True])
def test_without_a_memory_they_are_the_estimators_of_the_batch(points: Tensor, average: bool):
    within, overall = batch_knn_entropies(points, LABELS, within_neighbors=3, overall_neighbors=5, average=average)
    assert float(within) == pytest.approx(float(conditional_knn_entropy(points, LABELS, 3, average=average)), rel=1e-9)
    assert float(overall) == pytest.approx(float(knn_entropy(points, 5, average=average)), rel=1e-9)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("k", [2, 5, 40])
def test_points_of_a_memory_are_neighbours(points: Tensor, average: bool, k: int):
    # A last, empty place: with a full memory 40 neighbours are too many.
    memory = (torch.cat([points[10:], points[:1]]), torch.cat([LABELS[10:], torch.tensor([-1])]))
    got = batch_knn_entropies(
        points[:10], LABELS[:10], within_neighbors=k, overall_neighbors=k, average=average, memory=memory
    )
    of_class = [[j for j in range(24) if LABELS[j] == LABELS[i]] for i in range(24)]
    expected = [
        slow_estimate(points, 10, of_class, k, average),
        slow_estimate(points, 10, [list(range(24))] * 24, k, average),
    ]
    assert [float(value) for value in got] == pytest.approx(expected, rel=1e-9)


def test_empty_places_of_a_memory_change_nothing(points: Tensor):
    empty = (torch.zeros(7, 5, dtype=torch.float64), torch.full((7,), -1))
    options = {"within_neighbors": 3, "overall_neighbors": 4}
    plain = values(points, LABELS, **options)
    assert values(points, LABELS, memory=empty, **options) == pytest.approx(plain, rel=1e-12)


def test_a_class_of_one_point_is_left_out_while_the_memory_has_empty_places(points: Tensor):
    labels = LABELS.clone()
    labels[0] = 9
    options = {"within_neighbors": 3, "overall_neighbors": 3, "memory": (points[:1], torch.tensor([-1]))}
    within, _ = values(points, labels, **options)
    rest, _ = values(points[1:], labels[1:], **options)
    assert within == pytest.approx(rest, rel=1e-9)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_points_of_the_same_image_are_not_neighbours(points: Tensor, average: bool, k: int):
    # A batch of 10 with two copies in itself, and copies of five of its images in the memory, one of them twice.
    images = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 0, 4, 0, 3, 3, 7, 6, 1, *range(20, 28)])
    first = torch.tensor([images.tolist().index(image) for image in images])
    points, labels = points[first] + 1e-5 * points, images % 2  # a copy is near the first one
    options = {"within_neighbors": k, "overall_neighbors": k, "average": average}
    got = values(points[:10], labels[:10], memory=(points[10:], labels[10:]), images=images, **options)
    others = [[j for j in range(24) if images[j] != images[i]] for i in range(24)]
    of_class = [[j for j in others[i] if labels[j] == labels[i]] for i in range(24)]
    expected = [slow_estimate(points, 10, of_class, k, average), slow_estimate(points, 10, others, k, average)]
    assert got == pytest.approx(expected, rel=1e-9)


def test_copies_that_leave_too_few_neighbours_lower_k_for_h_of_z():
    """Of three points two are one image, so that each of these has one neighbour: k = 1 for them, and 2 for the third.

    At 0 and 1 the neighbour at 5 is 5 and 4 away; at 5 the second neighbour is 5 away. In one dimension V = 2.
    """
    z, labels = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    _, overall = values(z, labels, within_neighbors=2, overall_neighbors=2, images=torch.tensor([7, 7, 8]))
    copies = [digamma(2) - digamma(1) + math.log(2 * distance) for distance in (5, 4)]
    assert overall == pytest.approx((sum(copies) + digamma(3) - digamma(2) + math.log(2 * 5)) / 3)


def test_images_that_all_differ_change_no_bit(points: Tensor):
    options = {"within_neighbors": 3, "overall_neighbors": 4, "memory": (points[10:], LABELS[10:])}
    plain = values(points[:10], LABELS[:10], **options)
    assert values(points[:10], LABELS[:10], images=torch.arange(24) + 7, **options) == plain


@pytest.mark.parametrize("count", [24, 10])
def test_too_few_neighbours_give_no_number_as_soon_as_the_memory_is_full(points: Tensor, count: int):
    memory = (points[count:], LABELS[count:]) if count < 24 else None
    for k, finite in ((7, True), (8, False)):  # each class has 8 points
        within, _ = values(points[:count], LABELS[:count], within_neighbors=k, overall_neighbors=3, memory=memory)
        assert math.isfinite(within) == finite
    for k, finite in ((23, True), (24, False)):
        _, overall = values(points[:count], LABELS[:count], within_neighbors=3, overall_neighbors=k, memory=memory)
        assert math.isfinite(overall) == finite


def test_negative_labels_are_classes_of_the_batch(points: Tensor):
    labels = LABELS - 2
    within, overall = values(points, labels, within_neighbors=3, overall_neighbors=5)
    assert within == pytest.approx(float(conditional_knn_entropy(points, labels, 3)), rel=1e-9)
    assert overall == pytest.approx(float(knn_entropy(points, 5)), rel=1e-9)


@pytest.mark.parametrize("average", [False, True])
def test_the_gradient_is_that_of_differences(points: Tensor, average: bool):
    def both(z: Tensor) -> Tensor:
        memory = (points[10:], LABELS[10:])
        options = {"within_neighbors": 3, "overall_neighbors": 6, "average": average, "memory": memory}
        within, overall = batch_knn_entropies(z, LABELS[:10], **options)
        return within - 0.7 * overall

    assert torch.autograd.gradcheck(both, points[:10].clone().requires_grad_())


def test_coinciding_points_are_finite_and_have_no_gradient(points: Tensor):
    z = points.clone()
    z[3] = z[0]  # of the same class
    z.requires_grad_()
    within, _ = batch_knn_entropies(z, LABELS, within_neighbors=1, overall_neighbors=1)
    within.backward()
    assert math.isfinite(within.item())
    assert bool(z.grad.isfinite().all())


def test_points_far_from_the_origin_have_the_entropy_of_points_near_it(points: Tensor):
    options = {"within_neighbors": 3, "overall_neighbors": 3}
    near = values(points, LABELS, **options)
    assert values(points + 1e6, LABELS, **options) == pytest.approx(near, rel=1e-6)


@pytest.mark.parametrize("far", [1e7, 1e8])
def test_one_far_point_costs_the_others_no_digits(points: Tensor, far: float):
    z = points.clone()
    z[0] = far
    _, overall = values(z, LABELS, within_neighbors=3, overall_neighbors=3)
    assert overall == pytest.approx(float(knn_entropy(z, 3)), rel=1e-9)


def test_a_gaussian_has_its_entropy_also_by_a_memory():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6000, 3, dtype=torch.float64, generator=generator)
    labels = torch.zeros(6000, dtype=torch.long)
    _, overall = batch_knn_entropies(
        z[:2000], labels[:2000], within_neighbors=3, overall_neighbors=3, memory=(z[2000:], labels[2000:])
    )
    assert float(overall) == pytest.approx(1.5 * math.log(2 * math.pi * math.e), abs=0.06)


def test_points_that_all_coincide_have_a_finite_estimate_and_no_gradient():
    z = torch.ones(8, 4, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    within, overall = batch_knn_entropies(z, labels, within_neighbors=2, overall_neighbors=3)
    (overall - within).backward()
    assert bool(torch.stack([within, overall]).isfinite().all())
    assert bool((z.grad == 0.0).all())
