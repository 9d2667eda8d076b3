from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.estimators.batch_entropy import batch_knn_entropies
from ibrobust.estimators.soft_entropy import soft_entropies
from ibrobust.objectives import build_objective

LABELS = torch.arange(40) % 4


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(40, 5, generator=torch.Generator().manual_seed(0))


def objective(**options):
    defaults = {"beta": 0.2, "num_neighbors": 2, "average_neighbors": True}
    return build_objective("knn_ib", latent_dim=5, num_classes=4, **{**defaults, **options})


def test_k_falls_geometrically_and_stays_at_its_end():
    knn = objective(num_neighbors=4, first_neighbors=64, neighbor_fall=0.5)
    seen = []
    for progress in (0.0, 0.25, 0.5, 0.75, 0.999):
        knn.set_progress(progress)
        seen.append(knn.neighbors_now())
    assert seen == [64, 16, 4, 4, 4]


def test_k_begins_to_fall_when_the_surrogate_has_ended():
    knn = objective(num_neighbors=4, first_neighbors=64, soft_share=0.5, neighbor_fall=0.5)
    seen = []
    for progress in (0.5, 0.75, 1.0):
        knn.set_progress(progress)
        seen.append(knn.neighbors_now())
    assert seen == [64, 16, 4]


def test_the_first_share_of_a_training_minimises_the_surrogate_and_the_rest_the_estimator(latents: Tensor):
    knn = objective(soft_share=0.5)
    knn.set_progress(0.49)
    within, overall = soft_entropies(latents, LABELS, sharpness=2.0, class_sharpness=0.5)
    early = knn(latents, LABELS)
    assert set(early.terms) == {"soft H[Z|Y]", "soft H[Z]"}
    assert float(early.total) == pytest.approx(float(within - 0.8 * overall), rel=1e-5)
    knn.set_progress(0.5)
    within, overall = batch_knn_entropies(latents, LABELS, within_neighbors=2, overall_neighbors=2, average=True)
    late = knn(latents, LABELS)
    assert set(late.terms) == {"H[Z|Y]", "H[Z]"}
    assert float(late.total) == pytest.approx(float(within - 0.8 * overall), rel=1e-5)


def test_h_of_z_has_its_own_number_of_neighbours(latents: Tensor):
    within, overall = batch_knn_entropies(latents, LABELS, within_neighbors=2, overall_neighbors=6, average=True)
    loss = objective(neighbor_ratio=3.0)(latents, LABELS)
    assert float(loss.total) == pytest.approx(float(within - 0.8 * overall), rel=1e-5)


def test_the_neighbours_of_h_of_z_fall_with_those_of_h_of_z_given_y(latents: Tensor):
    loss = objective(first_neighbors=8, neighbor_fall=1.0, neighbor_ratio=3.0)(latents, LABELS)  # at progress 0
    within, overall = batch_knn_entropies(latents, LABELS, within_neighbors=8, overall_neighbors=24, average=True)
    assert float(loss.total) == pytest.approx(float(within - 0.8 * overall), rel=1e-5)


def test_beta_rises_linearly_in_its_warm_up(latents: Tensor):
    knn = objective(beta_warm_up=0.4)
    terms = knn(latents, LABELS).terms
    totals = []
    for progress in (0.0, 0.1, 0.4, 0.9):
        knn.set_progress(progress)
        totals.append(float(knn(latents, LABELS).total - (terms["H[Z|Y]"] - terms["H[Z]"])) / float(terms["H[Z]"]))
    assert totals == pytest.approx([0.0, 0.05, 0.2, 0.2], abs=1e-5)


def test_the_latest_latents_are_neighbours_in_training_alone(latents: Tensor):
    knn = objective(memory_size=20)
    knn(latents[:15], LABELS[:15])
    memory = (latents[:15], LABELS[:15])
    within, overall = batch_knn_entropies(
        latents[15:], LABELS[15:], within_neighbors=2, overall_neighbors=2, average=True, memory=memory
    )
    knn.eval()
    for _ in range(2):  # nothing is remembered in between
        assert float(knn(latents[15:], LABELS[15:]).total) == pytest.approx(float(within - 0.8 * overall), rel=1e-5)


@pytest.mark.parametrize("soft_share", [0.0, 1.0])
def test_an_earlier_view_of_an_image_is_not_its_neighbour(latents: Tensor, soft_share: float):
    """The second epoch of 20 images, of which the memory holds all: as if the image's first view were not there."""
    knn = objective(memory_size=20, soft_share=soft_share)
    knn.set_progress(0.5)
    first, second = latents[:20], latents[:20] + 1e-4 * latents[20:]
    knn(first, LABELS[:20], torch.arange(20))
    terms = knn(second[:8], LABELS[:8], torch.arange(8)).terms
    z, labels, expected = torch.cat([first, second]), LABELS[:20].repeat(2), torch.zeros(2)
    for i in range(8):  # one point at a time, with the points of all other images as its memory
        others = [j for j in range(28) if j % 20 != i]
        options = {"memory": (z[others], labels[others])}
        point = (z[20 + i, None], labels[20 + i, None])
        if soft_share:
            each = soft_entropies(*point, sharpness=2.0, class_sharpness=0.5, **options)
        else:
            each = batch_knn_entropies(*point, within_neighbors=2, overall_neighbors=2, average=True, **options)
        expected += torch.stack(each) / 8
    assert [float(v) for v in terms.values()] == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_class_that_is_too_small_is_named_once_the_memory_is_full(latents: Tensor):
    knn = objective(num_neighbors=3, memory_size=10)
    rare = torch.tensor([0] * 19 + [1])
    knn(latents[:20], rare)  # the memory is empty: fewer neighbours have to do
    with pytest.raises(
        IbrobustError, match="Class 1 has 1 point, too few for 3 neighbours: raise memory_size or the b"
    ):
        knn(latents[20:], rare)


def test_a_class_that_the_memory_alone_has_needs_no_neighbours(latents: Tensor):
    knn = objective(num_neighbors=3, memory_size=20)
    rare = torch.tensor([0] * 18 + [1] * 2)
    knn(latents[:20], rare)
    terms = knn(latents[20:], torch.zeros(20, dtype=torch.long)).terms
    memory = (latents[:20], rare)
    expected = batch_knn_entropies(
        latents[20:], 0 * rare, within_neighbors=3, overall_neighbors=3, average=True, memory=memory
    )
    assert [float(v) for v in terms.values()] == pytest.approx([float(v) for v in expected], rel=1e-5)


def test_a_k_that_would_not_reach_its_end_in_the_training_is_refused():
    with pytest.raises(IbrobustError, match="soft_share 0.75 and neighbor_fall 0.75 are more than 1 together"):
        objective(num_neighbors=2, first_neighbors=4, soft_share=0.75)
    knn = objective(num_neighbors=2, first_neighbors=8, soft_share=0.75, neighbor_fall=0.25)
    knn.set_progress(0.9999)
    assert knn.neighbors_now() == 2


def test_more_neighbours_at_the_end_than_at_the_start_are_refused():
    with pytest.raises(IbrobustError, match="first_neighbors is 3, fewer than num_neighbors 9"):
        objective(num_neighbors=9, first_neighbors=3)
    with pytest.raises(IbrobustError, match="first_neighbors is 9, but neighbor_fall is 0"):
        objective(num_neighbors=3, first_neighbors=9, neighbor_fall=0.0)
