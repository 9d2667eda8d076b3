from __future__ import annotations

import math

import pytest
import torch

from ibrobust.errors import IbrobustError
from ibrobust.estimators.soft_entropy import soft_entropies
from ibrobust.objectives import build_objective


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(24, 5, generator=generator, dtype=torch.float64), torch.arange(3).repeat(8)


def slow_twin(z: torch.Tensor, labels: torch.Tensor, tau: float, s: float = 0.0) -> tuple[float, float]:
    """The two formulas of the docstring, point by point."""
    count, dim = z.shape
    within, overall = [], []
    for i in range(count):
        squared = {j: float((z[i] - z[j]).square().sum()) for j in range(count) if j != i}
        same = [r for j, r in squared.items() if labels[j] == labels[i]]
        if s == 0.0:
            within.append(sum(math.log(r) for r in same) / len(same))
        else:
            within.append(-math.log(sum(r**-s for r in same) / len(same)) / s)
        overall.append(-math.log(sum(r**-tau for r in squared.values()) / len(squared)) / tau)
    return dim / 2 * sum(within) / count, dim / 2 * sum(overall) / count


@pytest.mark.parametrize("tau", [0.5, 2.0, 8.0])
def test_it_is_the_slow_twins(batch, tau):
    z, labels = batch
    got = [float(value) for value in soft_entropies(z, labels, sharpness=tau)]
    assert got == pytest.approx(slow_twin(z, labels, tau), rel=1e-9)


@pytest.mark.parametrize("s", [0.5, 3.0])
def test_a_class_sharpness_is_the_slow_twins(batch, s):
    z, labels = batch
    got = [float(value) for value in soft_entropies(z, labels, sharpness=2.0, class_sharpness=s)]
    assert got == pytest.approx(slow_twin(z, labels, 2.0, s), rel=1e-9)


def test_a_small_class_sharpness_is_near_the_mean_logarithm(batch):
    z, labels = batch
    small, zero = (float(soft_entropies(z, labels, sharpness=2.0, class_sharpness=s)[0]) for s in (1e-6, 0.0))
    assert small == pytest.approx(zero, rel=1e-5)


def test_scaling_adds_d_log_of_the_factor(batch):
    z, labels = batch
    before, after = soft_entropies(z, labels, sharpness=2.0), soft_entropies(7.0 * z, labels, sharpness=2.0)
    for a, b in zip(before, after, strict=True):
        assert float(b - a) == pytest.approx(5 * math.log(7.0))


def test_translation_changes_nothing(batch):
    z, labels = batch
    for a, b in zip(
        soft_entropies(z, labels, sharpness=2.0), soft_entropies(z + 1e3, labels, sharpness=2.0), strict=True
    ):
        assert float(a) == pytest.approx(float(b), rel=1e-7)


def test_a_large_sharpness_is_the_nearest_neighbour(batch):
    z, labels = batch
    distances = torch.cdist(z, z).fill_diagonal_(math.inf).min(dim=1).values
    nearest = 5 * float(distances.log().mean())
    # The power mean over n - 1 neighbours is above the smallest by at most d / (2 tau) * log(n - 1).
    overall = float(soft_entropies(z, labels, sharpness=500.0)[1])
    assert 0.0 <= overall - nearest <= 5 / 1000 * math.log(23) + 1e-9


def test_the_gradients_are_those_of_central_differences(batch):
    z, labels = batch

    def loss(points: torch.Tensor) -> torch.Tensor:
        within, overall = soft_entropies(points, labels, sharpness=2.0, class_sharpness=0.5)
        return within - 0.9 * overall

    assert torch.autograd.gradcheck(loss, z.clone().requires_grad_())


def test_coinciding_points_have_finite_values_and_gradients():
    z = torch.ones(6, 4).index_fill_(0, torch.tensor([5]), 0.0).requires_grad_()
    within, overall = soft_entropies(z, torch.arange(2).repeat(3), sharpness=2.0)
    (gradient,) = torch.autograd.grad(within - overall, z)
    assert all(bool(tensor.isfinite().all()) for tensor in (within, overall, gradient))


def test_points_that_all_coincide_have_finite_values_and_gradients():
    z = torch.ones(6, 4).requires_grad_()
    within, overall = soft_entropies(z, torch.arange(2).repeat(3), sharpness=2.0)
    (gradient,) = torch.autograd.grad(within - overall, z)
    assert all(bool(tensor.isfinite().all()) for tensor in (within, overall, gradient))


def test_a_far_point_leaves_the_gradient_of_the_others(batch):
    z, labels = batch[0].float(), batch[1]
    far = torch.cat([z, torch.full((1, 5), 1e6)])
    alone = torch.cat([labels, torch.tensor([9])])
    gradients = []
    for points, classes in ((z, labels), (far, alone)):
        points = points.clone().requires_grad_()
        overall = soft_entropies(points, classes, sharpness=2.0)[1] * len(points)
        gradients.append(torch.autograd.grad(overall, points)[0][:24])
    # The far point counts as one more neighbour in each mean, without a gradient.
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_labels_are_names_whatever_their_values(batch):
    z, labels = batch
    expected = [float(value) for value in soft_entropies(z, labels, sharpness=2.0)]
    for named in (labels - 1, 7 * labels - 100, labels.to(torch.uint8), labels.tolist()):
        assert [float(value) for value in soft_entropies(z, named, sharpness=2.0)] == pytest.approx(expected, rel=1e-12)


def test_labels_of_another_shape_are_refused(batch):
    with pytest.raises(IbrobustError, match=r"\(24,\) integers are needed"):
        soft_entropies(batch[0], batch[1][:, None], sharpness=2.0)


@pytest.mark.parametrize("s", [0.0, 0.5])
def test_a_class_of_one_is_left_out_of_the_conditional_entropy(batch, s):
    z, labels = batch
    alone = torch.cat([labels, torch.tensor([9])])
    far = torch.cat([z, 50.0 + z[:1]])
    assert float(soft_entropies(far, alone, sharpness=2.0, class_sharpness=s)[0]) == pytest.approx(
        float(soft_entropies(z, labels, sharpness=2.0, class_sharpness=s)[0]), rel=1e-9
    )


def test_a_class_of_one_has_a_finite_gradient(batch):
    z = torch.cat([batch[0], 50.0 + batch[0][:1]]).requires_grad_()
    labels = torch.cat([batch[1], torch.tensor([9])])
    within, _ = soft_entropies(z, labels, sharpness=2.0, class_sharpness=0.5)
    (gradient,) = torch.autograd.grad(within, z)
    assert bool(gradient.isfinite().all())


def test_half_precision_is_computed_in_single(batch):
    z, labels = batch
    half = z.bfloat16()
    for a, b in zip(
        soft_entropies(half, labels, sharpness=2.0), soft_entropies(half.float(), labels, sharpness=2.0), strict=True
    ):
        assert torch.equal(a, b)


def test_points_of_a_memory_are_neighbours(batch):
    z, labels = batch
    # Of the entropies of all 24 points, the part that is a mean over the first 10.
    within, overall = [], []
    for i in range(10):
        squared = {j: float((z[i] - z[j]).square().sum()) for j in range(24) if j != i}
        same = [math.log(r) for j, r in squared.items() if labels[j] == labels[i]]
        within.append(sum(same) / len(same))
        overall.append(-math.log(sum(r**-2.0 for r in squared.values()) / len(squared)) / 2.0)
    got = soft_entropies(z[:10], labels[:10], sharpness=2.0, memory=(z[10:], labels[10:]))
    assert [float(v) for v in got] == pytest.approx([2.5 * sum(within) / 10, 2.5 * sum(overall) / 10], rel=1e-9)


def test_points_of_the_same_image_are_not_neighbours(batch):
    z, labels = batch
    images = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 0, 4, 0, 3, 3, 7, 6, 1, *range(20, 28)])
    within, overall = [], []
    for i in range(10):
        squared = {j: float((z[i] - z[j]).square().sum()) for j in range(24) if images[j] != images[i]}
        same = [math.log(r) for j, r in squared.items() if labels[j] == labels[i]]
        within.append(sum(same) / len(same))
        overall.append(-math.log(sum(r**-2.0 for r in squared.values()) / len(squared)) / 2.0)
    got = soft_entropies(z[:10], labels[:10], sharpness=2.0, memory=(z[10:], labels[10:]), images=images)
    assert [float(v) for v in got] == pytest.approx([2.5 * sum(within) / 10, 2.5 * sum(overall) / 10], rel=1e-9)


def test_images_that_all_differ_change_no_bit(batch):
    z, labels = batch
    got, plain = (soft_entropies(z, labels, sharpness=2.0, images=images) for images in (torch.arange(24), None))
    assert [float(v) for v in got] == [float(v) for v in plain]


def test_empty_places_of_a_memory_change_nothing(batch):
    z, labels = batch
    empty = (torch.zeros(7, 5, dtype=torch.float64), torch.full((7,), -1))
    got, plain = (soft_entropies(z, labels, sharpness=2.0, memory=memory) for memory in (empty, None))
    assert [float(v) for v in got] == pytest.approx([float(v) for v in plain], rel=1e-12)


def soft_objective(**options):
    defaults = {"beta": 0.1, "neighbor_sharpness": 2.0}
    return build_objective("soft_ib", latent_dim=5, num_classes=3, **{**defaults, **options})


def test_the_objective_remembers_the_latest_latents(batch):
    z, labels = batch[0].float(), batch[1]
    objective = soft_objective(memory_size=10)
    for part in (slice(0, 8), slice(8, 16)):
        objective(z[part], labels[part])
    kept = [*range(8, 16), 0, 4]  # of the oldest batch, two points spread evenly over it
    expected = soft_entropies(z[16:], labels[16:], sharpness=2.0, memory=(z[kept], labels[kept]))
    terms = objective(z[16:], labels[16:]).terms
    assert [float(v) for v in terms.values()] == pytest.approx([float(v) for v in expected], rel=1e-5)


def test_the_objective_remembers_nothing_in_evaluation(batch):
    objective = soft_objective(memory_size=10).eval()
    objective(batch[0].float(), batch[1])
    assert bool((objective.memory.labels < 0).all())


@pytest.mark.parametrize("s", [-1.0, math.inf, math.nan])
def test_a_negative_class_sharpness_is_refused(batch, s):
    with pytest.raises(IbrobustError, match="class sharpness"):
        soft_entropies(*batch, sharpness=2.0, class_sharpness=s)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.inf, math.nan])
def test_a_sharpness_that_is_not_positive_is_refused(batch, tau):
    with pytest.raises(IbrobustError, match="sharpness"):
        soft_entropies(*batch, sharpness=tau)


def test_the_objective_is_made_of_its_surrogates_and_does_not_call_them_entropies(batch):
    z, labels = batch
    loss = soft_objective()(z, labels)
    within, overall = soft_entropies(z, labels, sharpness=2.0)
    assert dict(loss.terms) == {"soft H[Z|Y]": within, "soft H[Z]": overall}
    assert float(loss.total) == pytest.approx(float(within - 0.9 * overall))


def test_a_point_without_any_other_has_no_entropy():
    z = torch.ones(1, 4, requires_grad=True)
    within, overall = soft_entropies(z, torch.tensor([0]), sharpness=2.0)
    (overall - within).backward()
    assert (within.item(), overall.item()) == (0.0, 0.0)
    assert bool((z.grad == 0.0).all())
