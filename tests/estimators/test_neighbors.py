from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from ibrobust.estimators import neighbors
from ibrobust.estimators.neighbors import nearest_neighbors, nearest_within_classes
from ibrobust.estimators.symmetric_search import search_symmetric


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [65, 96, 700, 1501])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_symmetric_search_finds_what_the_k_d_tree_does(count: int, k: int):
    z = draw(count, 6)
    distances, indices = nearest_neighbors(z, k, tile=32)
    expected, tree_indices = KDTree(z.double().numpy()).query(z.double().numpy(), k + 1)
    assert torch.equal(indices, torch.from_numpy(tree_indices[:, 1:]))
    assert torch.allclose(distances.double(), torch.from_numpy(expected[:, 1:]), rtol=1e-6)


def random_points(seed: int) -> Tensor:
    """Clusters of some width, some of them far away, with duplicates and a far point now and then."""
    choose = random.Random(seed)
    count, dim = choose.randint(20, 400), choose.choice([1, 2, 3, 8, 40, 200])
    generator = torch.Generator().manual_seed(seed)
    centres = 10.0 ** choose.uniform(-2, 4) * torch.randn(choose.randint(1, 6), dim, generator=generator).double()
    member = torch.randint(len(centres), (count,), generator=generator)
    z = centres[member] + 10.0 ** choose.uniform(-6, 1) * torch.randn(count, dim, generator=generator)
    z += choose.choice([0.0, 0.0, 10.0 ** choose.uniform(0, 4)])
    if choose.random() < 0.3:
        z[: count // 4] = z[0]
    if choose.random() < 0.2:
        z[-1] = 10.0 ** choose.uniform(4, 12)
    return z.to(choose.choice([torch.float32, torch.float32, torch.float64]))


@pytest.mark.parametrize("tile", [32, 1024])
def test_neighbours_are_the_nearest_by_differences(tile: int, monkeypatch: pytest.MonkeyPatch):
    for seed in range(80):
        monkeypatch.setattr(neighbors, "bfloat16_is_faster", lambda seed=seed: seed % 2 == 0)
        z = random_points(seed)
        k = 1 + seed % 5
        distances, indices = nearest_neighbors(z, k, tile=tile)
        wide = z.double()
        every = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
        expected = every.topk(k, largest=False).values
        assert torch.allclose(every.gather(1, indices), expected, rtol=1e-6, atol=0.0), seed
        assert torch.allclose(distances, expected, rtol=1e-6, atol=0.0), seed


def test_the_small_search_of_a_gpu_is_the_nearest_by_differences():
    for seed in range(40):
        z = random_points(seed)
        distances, indices = neighbors._nearest_by_differences(z, None, 3)
        expected = nearest_neighbors(z, 3)[0]
        assert torch.allclose(distances, expected, rtol=1e-6, atol=0.0), seed
        assert not bool((indices == torch.arange(len(z))[:, None]).any())


@pytest.mark.parametrize("far", [1e20, 1e200, 3e-199])
def test_squares_neither_overflow_nor_underflow(far: float):
    # Distances of the first ten points are 1e-200, of which no float64 is the square; the last is far away.
    z = torch.arange(11.0).double()[:, None] * 1e-200
    z[-1] = far
    distances = nearest_neighbors(z, 1)[0].squeeze(1)
    assert distances[:10].tolist() == pytest.approx([1e-200] * 10, rel=1e-12, abs=0.0)
    assert float(distances[10]) == pytest.approx(float(z[10] - z[9]), rel=1e-12, abs=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_searches_propose_the_same_candidates(dtype: torch.dtype):
    z = draw(1000, 24).to(dtype)
    rows = neighbors._search_rows(z, None, 5, 128)
    symmetric = search_symmetric(z, 5, 128, product=dtype, shift=0.0)
    assert torch.equal(rows[1], symmetric[1])
    assert torch.allclose(rows[0], symmetric[0], rtol=1e-4)


def test_rows_that_rounding_may_have_spoilt_are_searched_again(monkeypatch: pytest.MonkeyPatch):
    # A planted defect: a product form with errors as large as those of bfloat16 products.
    def coarse(points: Tensor, kept: int, tile: int, **_: object) -> tuple[Tensor, Tensor]:
        return search_symmetric(points.bfloat16().float(), kept, tile, product=torch.float32, shift=0.0)

    z = draw(1000, 24)
    expected = nearest_neighbors(z, 3)[1]
    monkeypatch.setattr(neighbors, "search_symmetric", coarse)
    assert torch.equal(nearest_neighbors(z, 3, tile=64)[1], expected)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_bfloat16_products_give_the_same_neighbours_and_distances(monkeypatch: pytest.MonkeyPatch, scale: float):
    z = scale * draw(1000, 64) + 0.5
    found = {}
    for faster in (False, True):
        monkeypatch.setattr(neighbors, "bfloat16_is_faster", lambda faster=faster: faster)
        found[faster] = nearest_neighbors(z, 3, tile=64)
    assert torch.equal(found[True][0], found[False][0])
    assert torch.equal(found[True][1], found[False][1])


def test_a_nearest_point_that_bfloat16_moves_away_is_found(monkeypatch: pytest.MonkeyPatch):
    """Two points on both sides of the middle between two numbers of bfloat16, which moves them apart.

    Points that are exact in bfloat16 then seem to be nearer. Their distances are almost right in it, so that the
    errors of the candidates alone do not tell that anything is wrong.
    """
    unit, dim = 2.0**-7, 64  # the distance of the numbers of bfloat16 beyond 1
    one = torch.ones(dim)
    pair = [one + 0.5 * unit - 2.0**-12, one + 0.5 * unit + 2.0**-12]
    for ones in (15, *range(18, 28)):
        step = torch.zeros(dim)
        step[:ones], step[ones : 2 * ones - 15] = unit, -unit
        pair += [one + step, one + unit - step]
    near = torch.cat([torch.stack(pair), torch.zeros(len(pair), 8)], dim=1)
    corners = (torch.arange(256)[:, None] >> torch.arange(8)) % 2 - 0.5  # of a box, around the origin
    far = torch.cat([torch.zeros(256, dim), unit * torch.arange(4, 12) * corners], dim=1)
    z = torch.cat([far[:128], near, far[128:]])
    monkeypatch.setattr(neighbors, "_choose_product", lambda *_: (torch.bfloat16, 2.0**-13))
    assert nearest_neighbors(z, 1, tile=64)[1][128:130, 0].tolist() == [129, 128]


@pytest.mark.parametrize("faster", [False, True])
def test_few_rows_of_ordinary_points_are_searched_again(faster: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbors, "bfloat16_is_faster", lambda: faster)
    searched = []

    def counted(search: Callable[..., object]) -> Callable[..., object]:
        def count(points: Tensor, rows: Tensor | None, *args: int) -> object:
            searched.append(len(points) if rows is None else len(rows))
            return search(points, rows, *args)

        return count

    monkeypatch.setattr(neighbors, "_search_rows", counted(neighbors._search_rows))
    monkeypatch.setattr(neighbors, "search_exactly", counted(neighbors.search_exactly))
    nearest_neighbors(draw(3000, 64), 3, tile=256)
    assert sum(searched) < 300


@pytest.mark.parametrize("one_matrix", [False, True])
def test_within_classes(one_matrix: bool):
    z, labels = draw(300, 5), torch.randint(4, (300,), generator=torch.Generator().manual_seed(1))
    distances, indices, sizes = nearest_within_classes(z, labels, 3, one_matrix=one_matrix)
    for label in range(4):
        members = (labels == label).nonzero().squeeze(1)
        own, local = nearest_neighbors(z[members], 3)
        assert torch.equal(distances[members], own)
        assert torch.equal(indices[members], members[local])
        assert bool((sizes[members] == len(members)).all())


def test_one_matrix_never_takes_a_neighbour_from_another_class():
    # Class 1 lies amid class 0, and has one point fewer than needed.
    z, labels = draw(40, 2), torch.tensor([0] * 37 + [1] * 3)
    distances = nearest_within_classes(z, labels, 3, one_matrix=True)[0]
    assert bool(distances[37:, 2].isinf().all())
    assert bool(distances[37:, :2].isfinite().all())
