from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from scipy.special import digamma, gammaln
from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.estimators import conditional_knn_entropy, entropy, knn_entropy


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def k_d_tree_entropy(z: Tensor, k: int) -> float:
    """The estimator from SciPy's parts, sharing nothing with ours."""
    points = z.double().numpy()
    count, dim = points.shape
    distances = KDTree(points).query(points, k + 1)[0][:, k]
    log_volume = dim / 2 * math.log(math.pi) - gammaln(dim / 2 + 1)
    return float(digamma(count) - digamma(k) + log_volume + dim * np.log(distances).mean())


def slow_entropy(z: Tensor, k: int) -> Tensor:
    """The equation as it is written, one point after the other, differentiated by autograd."""
    count, dim = z.shape
    total = torch.zeros((), dtype=z.dtype)
    for i in range(count):
        squared = torch.stack([(z[i] - z[j]).square().sum() for j in range(count) if j != i])
        total = total + squared.sort().values[k - 1].log()
    log_volume = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    return digamma(count) - digamma(k) + log_volume + dim / (2 * count) * total


def gaussian_entropy(covariance: Tensor) -> float:
    return 0.5 * float(torch.logdet(2 * math.pi * math.e * covariance))


# The standard error of the estimate is about sqrt((d / 2 + trigamma(k)) / N): the spread of -log p of a Gaussian and
# that of log-distances. Its bias in d <= 3 is below that here.
def tolerance(dim: int, count: int, k: int) -> float:
    return 4 * math.sqrt((dim / 2 + float(torch.polygamma(1, torch.tensor(float(k))))) / count)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_standard_gaussian(dim: int, k: int):
    z = draw(4000, dim)
    assert abs(float(knn_entropy(z, k)) - gaussian_entropy(torch.eye(dim))) < tolerance(dim, 4000, k)


@pytest.mark.parametrize("average", [False, True])
def test_correlated_gaussian(average: bool):
    mix = torch.tensor([[2.0, 0.0, 0.0], [1.9, 0.3, 0.0], [0.5, -0.2, 0.7]], dtype=torch.float64)
    z = draw(6000, 3) @ mix.T
    expected = gaussian_entropy(mix @ mix.T)
    assert abs(float(knn_entropy(z, 5, average=average)) - expected) < tolerance(3, 6000, 1)


def test_values_of_the_table_of_standard_gaussians():
    # 5,000 samples, k = 3; true entropies in nats, and how far a sample's estimate strays at ten standard errors.
    for dim, true in ((1, 1.419), (2, 2.838), (5, 7.095), (10, 14.189)):
        assert abs(float(knn_entropy(draw(5000, dim, seed=dim))) - true) < 0.15


def test_uniform_cube():
    z = draw_uniform(6000, 2) * 3
    # The edge makes the distances too long there: a bias of order k^(1/2) N^(-1/2).
    assert abs(float(knn_entropy(z)) - 2 * math.log(3)) < tolerance(2, 6000, 3) + 0.05


def test_uniform_ball():
    direction = draw(6000, 3)
    z = 2 * direction / direction.norm(dim=1, keepdim=True) * draw_uniform(6000, 1).pow(1 / 3)
    expected = math.log(4 / 3 * math.pi * 8)
    assert abs(float(knn_entropy(z)) - expected) < tolerance(3, 6000, 3) + 0.15


@pytest.mark.parametrize("shape", [(200, 1), (300, 3), (400, 20), (900, 8)])
@pytest.mark.parametrize("k", [1, 4])
def test_equals_the_k_d_tree(shape: tuple[int, int], k: int):
    z = draw(*shape)
    assert float(knn_entropy(z, k)) == pytest.approx(k_d_tree_entropy(z, k), rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 11])
def test_value_and_gradient_equal_the_slow_twins(k: int):
    fast, slow = draw(12, 4).requires_grad_(), draw(12, 4).requires_grad_()
    value, expected = knn_entropy(fast, k), slow_entropy(slow, k)
    value.backward()
    expected.backward()
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert torch.allclose(fast.grad, slow.grad, rtol=1e-10, atol=1e-12)


def test_average_is_the_mean_of_the_estimates():
    z = draw(60, 5)
    single = [float(knn_entropy(z, k)) for k in (1, 2, 3, 4)]
    assert float(knn_entropy(z, 4, average=True)) == pytest.approx(sum(single) / 4, rel=1e-12)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("chunk_size", [32, 1024])
def test_gradcheck(average: bool, chunk_size: int):
    z = draw(80, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: knn_entropy(z, 3, average=average, chunk_size=chunk_size), z)


def test_gradcheck_conditional():
    z, labels = draw(30, 3).requires_grad_(), torch.arange(30) % 3
    assert torch.autograd.gradcheck(lambda z: conditional_knn_entropy(z, labels, 2), z)


@pytest.mark.parametrize("factor", [1e-30, 0.01, 7.0, 1e30])
def test_scaling_adds_d_log_factor(factor: float):
    z = draw(300, 6).float()
    expected = float(knn_entropy(z)) + 6 * math.log(factor)
    assert float(knn_entropy(z * factor)) == pytest.approx(expected, rel=1e-5)


def test_linear_map_adds_the_log_determinant():
    # A map with equal singular values keeps neighbours, so the law holds to rounding and not only in the mean.
    rotation = torch.linalg.qr(draw(5, 5, seed=1)).Q
    z = draw(200, 5)
    assert float(knn_entropy(z @ rotation * 3)) == pytest.approx(float(knn_entropy(z)) + 5 * math.log(3), rel=1e-12)


def test_translation_changes_nothing():
    z = draw(500, 16).float()
    # Multiples of 2^-9 up to 4, moved by 2^12, are exact in float32, so that only the estimator can be to blame.
    z = (z.clamp(-4, 4) * 512).round() / 512
    assert float(knn_entropy(z + 4096.0)) == pytest.approx(float(knn_entropy(z)), rel=1e-6)


def test_clusters_far_apart_are_searched_exactly():
    # In float32 |a|^2 is 1e11 here with a rounding error of 1e4, and squared distances within a cluster are about 30.
    z = ((draw(400, 16) * 64).round() / 64).float()
    z[:200] += 65536.0
    z[200:] -= 65536.0
    assert float(knn_entropy(z)) == pytest.approx(k_d_tree_entropy(z, 3), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype):
    z = draw(300, 32).to(dtype)
    value = knn_entropy(z)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(k_d_tree_entropy(z, 3), rel=1e-6)


def test_half_precision_gradient_comes_back_in_half_precision():
    z = draw(50, 4).half().requires_grad_()
    knn_entropy(z).backward()
    assert z.grad.dtype == torch.float16


def test_autocast_changes_nothing():
    z = draw(300, 32).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = knn_entropy(z)
    assert torch.equal(inside, knn_entropy(z))


@pytest.mark.parametrize("count", [65, 1000, 2500])
def test_value_does_not_depend_on_the_chunks(count: int):
    z = draw(count, 20).float()
    values = {float(knn_entropy(z, 4, average=True, chunk_size=size)) for size in (1, 32, 100, 1024, 4096)}
    assert len(values) == 1


def lognormal(sigma: float) -> Tensor:
    return (sigma * draw(2000, 1)).exp()


def with_a_far_point(far: float) -> Tensor:
    z = draw(500, 4)
    z[0] = far
    return z


def narrow_clusters(width: float) -> Tensor:
    return draw(10, 8)[torch.arange(1000) % 10] + width * draw(1000, 8, seed=1)


SEVERAL_SCALES = [
    lognormal(4.0),
    lognormal(6.0),
    lognormal(4.0).float(),
    lognormal(6.0).float(),
    with_a_far_point(1e8),
    with_a_far_point(1e8).float(),
    with_a_far_point(1e14),
    with_a_far_point(1e30).float(),
    narrow_clusters(1e-5).float(),
    narrow_clusters(1e-7),
    narrow_clusters(1e-11),
    1e-3 * draw(500, 3) + 1e6,
    torch.cat([1e6 + torch.zeros(500, 1), 1e-3 * draw(500, 2)], dim=1).float(),
    draw(300, 1000),
]


@pytest.mark.parametrize("z", SEVERAL_SCALES)
def test_points_of_several_scales_equal_the_k_d_tree(z: Tensor):
    assert float(knn_entropy(z)) == pytest.approx(k_d_tree_entropy(z, 3), rel=1e-6)


def test_a_far_point_changes_no_other_class():
    z, labels = with_a_far_point(1e8), torch.tensor([0] * 200 + [1] * 300)
    expected = 0.4 * k_d_tree_entropy(z[:200], 3) + 0.6 * k_d_tree_entropy(z[200:], 3)
    assert float(conditional_knn_entropy(z, labels)) == pytest.approx(expected, rel=1e-9)


def test_narrow_clusters_have_the_gradient_of_the_slow_twin():
    z = draw(3, 2)[torch.arange(12) % 3] + 1e-7 * draw(12, 2, seed=1)
    fast, slow = z.clone().requires_grad_(), z.clone().requires_grad_()
    knn_entropy(fast, 2).backward()
    slow_entropy(slow, 2).backward()
    assert torch.allclose(fast.grad, slow.grad, rtol=1e-9)


@pytest.mark.parametrize("power", [-300, -200, 200, 300])
def test_scaling_of_float64_by_more_than_a_square_holds(power: int):
    z = draw(300, 3)
    expected = float(knn_entropy(z)) + 3 * power * math.log(10)
    assert float(knn_entropy(z * 10.0**power)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dim", [1, 1000])
def test_two_points(dim: int):
    z = torch.tensor([[0.0], [3.0]]).double().expand(2, dim)
    log_volume = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    expected = 1.0 + log_volume + dim * math.log(3.0 * math.sqrt(dim))  # psi(2) - psi(1) = 1
    assert float(knn_entropy(z, 1)) == pytest.approx(expected, rel=1e-9)


def test_gradcheck_beside_duplicates():
    fixed = draw(1, 3).expand(5, 3)
    assert torch.autograd.gradcheck(
        lambda z: knn_entropy(torch.cat([fixed, z]), 3), draw(20, 3, seed=1).requires_grad_()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_nearest_that_a_dtype_holds_has_a_finite_gradient(dtype: torch.dtype):
    least = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    z = (torch.arange(8.0).double() * least).to(dtype)[:, None].requires_grad_()
    value = knn_entropy(z, 1)
    value.backward()
    assert math.isfinite(float(value.detach()))
    assert bool(z.grad.isfinite().all())


def test_duplicates_count_as_the_smallest_distance():
    z = torch.cat([draw(1, 3).expand(5, 3), draw(1, 3, seed=1).expand(5, 3)])
    log_volume = math.log(4 / 3 * math.pi)
    for points in (z, z.float(), z.half()):
        hidden = torch.finfo(points.dtype).eps / 2 * points.double().norm(dim=1)
        expected = digamma(10) - digamma(3) + log_volume + 3 * float(hidden.log().mean())
        assert float(knn_entropy(points)) == pytest.approx(expected, rel=1e-6)


def test_duplicates_have_no_gradient():
    z = draw(1, 3).expand(6, 3).clone().requires_grad_()
    knn_entropy(z).backward()
    assert torch.equal(z.grad, torch.zeros(6, 3, dtype=torch.float64))


def test_points_that_all_coincide_have_a_finite_estimate():
    assert math.isfinite(float(knn_entropy(torch.ones(10, 4))))
    assert math.isfinite(float(knn_entropy(torch.zeros(10, 4))))


def test_some_duplicates_leave_the_other_gradients_finite():
    z = draw(40, 3).float()
    z[:10] = z[0]
    z.requires_grad_()
    knn_entropy(z, 3).backward()
    assert bool(z.grad.isfinite().all())


def test_conditional_is_the_weighted_mean_over_classes():
    z, labels = draw(60, 4), torch.tensor([7] * 10 + [-2] * 20 + [40] * 30)
    shuffle = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    expected = sum(n / 60 * float(knn_entropy(z[labels == c])) for c, n in ((7, 10), (-2, 20), (40, 30)))
    assert float(conditional_knn_entropy(z[shuffle], labels[shuffle])) == pytest.approx(expected, rel=1e-12)


def test_conditional_is_the_plain_mean_over_balanced_classes():
    z, labels = draw(60, 4), torch.arange(60) % 3
    expected = sum(float(knn_entropy(z[labels == c])) for c in range(3)) / 3
    assert float(conditional_knn_entropy(z, labels, num_neighbors=3)) == pytest.approx(expected, rel=1e-12)


def test_one_class_is_the_unconditional_estimate():
    z = draw(50, 4)
    assert float(conditional_knn_entropy(z, torch.zeros(50, dtype=torch.long))) == pytest.approx(float(knn_entropy(z)))


def test_class_that_is_too_small_is_named():
    labels = torch.tensor([0] * 8 + [5] * 3)
    with pytest.raises(
        IbrobustError, match="Class 5 has 3 points, too few for 3 neighbours: lower `num_neighbors`, or"
    ):
        conditional_knn_entropy(draw(11, 2), labels)


def test_class_that_is_too_small_gives_nan_without_validation():
    labels = torch.tensor([0] * 8 + [5] * 3)
    assert math.isnan(float(conditional_knn_entropy(draw(11, 2), labels, validate=False)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_that_are_not_finite_are_refused(bad: float):
    z = draw(10, 2)
    z[3, 1] = bad
    with pytest.raises(IbrobustError, match="1 of the 10 points have NaN or infinite"):
        knn_entropy(z)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_that_are_not_finite_give_no_finite_number_without_validation(bad: float):
    z = draw(200, 2)
    z[3, 1] = bad
    assert not math.isfinite(float(knn_entropy(z, validate=False)))
    assert not math.isfinite(float(knn_entropy(z, validate=False, chunk_size=32)))
    labels = torch.arange(200) % 2
    assert not math.isfinite(float(conditional_knn_entropy(z, labels, validate=False)))


@pytest.mark.parametrize(
    ("z", "k", "message"),
    [
        (torch.zeros(3, 2), 3, "3 points are too few for 3 neighbours"),
        (torch.zeros(5, 2), 0, "num_neighbors is 0"),
        (torch.zeros(5), 1, "shape"),
        (torch.zeros(5, 2, dtype=torch.long), 1, "dtype torch.int64"),
        (torch.zeros(5, 0), 1, "shape"),
        (torch.zeros(0, 3), 1, "points are empty"),
    ],
)
def test_bad_points_are_refused(z: Tensor, k: int, message: str):
    with pytest.raises(IbrobustError, match=message):
        knn_entropy(z, k)


LABEL_DTYPES = [torch.bool, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64]


@pytest.mark.parametrize("one_matrix", [False, True])
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_the_dtype_of_labels_changes_nothing(dtype: torch.dtype, one_matrix: bool, monkeypatch: pytest.MonkeyPatch):
    # More points of a class than the narrow dtypes hold.
    z, labels = draw(600, 3), torch.arange(600) % 2
    expected = float(conditional_knn_entropy(z, labels))
    search = entropy.nearest_within_classes
    way = lambda *args, **options: search(*args, **{**options, "one_matrix": one_matrix})  # noqa: E731
    monkeypatch.setattr(entropy, "nearest_within_classes", way)
    assert float(conditional_knn_entropy(z, labels.to(dtype))) == pytest.approx(expected, rel=1e-12)


def test_arrays_and_lists_are_taken():
    z, labels = draw(60, 3), torch.arange(60) % 2
    expected = float(conditional_knn_entropy(z, labels))
    big_endian = z.numpy().astype(">f8")
    assert float(conditional_knn_entropy(big_endian, labels.numpy().astype(">i4"))) == pytest.approx(
        expected, rel=1e-12
    )
    for given in (labels.numpy(), labels.numpy()[::-1], labels.tolist(), labels.bool().tolist(), labels.numpy() == 1):
        points = z.flip(0) if isinstance(given, np.ndarray) and given.strides[0] < 0 else z
        assert float(conditional_knn_entropy(points.numpy(), given)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [3.0, np.int64(3), np.float32(3.0), torch.tensor(3)])
def test_a_whole_number_of_neighbours_is_taken(k: float):
    z = draw(30, 2)
    assert float(knn_entropy(z, k)) == float(knn_entropy(z, 3))


@pytest.mark.parametrize("k", [3.5, math.nan, math.inf, "3", None])
def test_other_numbers_of_neighbours_are_refused(k: object):
    with pytest.raises(IbrobustError, match="num_neighbors is .*: a whole number of at least 1 is needed"):
        conditional_knn_entropy(draw(10, 2), torch.zeros(10).long(), k)


@pytest.mark.parametrize("labels", [["a"] * 10, [[1], [2, 3]], None])
def test_labels_that_are_no_numbers_are_refused(labels: object):
    with pytest.raises(IbrobustError, match=r"\(10,\) integers"):
        conditional_knn_entropy(draw(10, 2), labels)


@pytest.mark.parametrize("labels", [torch.zeros(9).long(), torch.zeros(10), torch.zeros(10, 1).long()])
def test_bad_labels_are_refused(labels: Tensor):
    with pytest.raises(IbrobustError, match=r"The labels have shape .*: \(10,\) integers are needed"):
        conditional_knn_entropy(draw(10, 2), labels)


def test_bad_chunk_size_is_refused():
    with pytest.raises(IbrobustError, match="chunk_size is 0"):
        knn_entropy(draw(10, 2), chunk_size=0)
