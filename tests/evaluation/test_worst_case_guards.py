"""Which images the stages without a gradient try first, how much they may cost, and what makes them warn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.worst_case_attack import guards, worst_case_attack
from ibrobust.evaluation.worst_case_attack.search import Search


class Rounded(nn.Module):
    """Images -> logits (B, 2): class 0 if they are bright; without a gradient, because pixels are rounded."""

    def forward(self, images: Tensor) -> Tensor:
        bright = (images.mean(dim=(1, 2, 3)) * 50).round() / 50 - 0.4
        return torch.stack([bright, -bright], dim=1) + 0.0 * images.sum()


def search_of(count: int) -> Search:
    """A search of images that are all correct."""
    images, labels = torch.full((count, 1, 12, 12), 0.7), torch.zeros(count, dtype=torch.long)
    return Search(guard(Rounded()), 1, images, labels, Ball("Linf", 0.01), 250)


def test_images_whose_margin_never_rose_are_watched_first():
    """Of 100 images, 16 are watched: half of them are the first ones, here those that look farthest away."""
    search = search_of(100)
    search.gaps = torch.stack([torch.full((100,), -torch.inf), -torch.arange(1.0, 101.0)], dim=1)
    search.stuck[92:] = True
    assert sorted(guards.watched(search)[:8].tolist()) == list(range(92, 100))


@pytest.mark.parametrize(("transferred", "warns"), [(1, False), (2, False), (3, True)])
def test_the_surrogate_may_break_one_in_a_hundred_of_the_correct_images(transferred, warns):
    search = search_of(200)
    search.transferred = transferred
    found = guards.warnings(search, by_untargeted=100, cuts=(), past_cuts=0, by_lines=(), by_others={}, by_guards=0)
    assert any("break the surrogate" in sentence for sentence in found) is warns


@pytest.mark.parametrize(("broken", "warns"), [(2, False), (3, True)])
def test_a_gradient_past_the_cuts_may_break_one_in_five_hundred_images(broken, warns):
    found = guards.warnings(
        search_of(1000),
        by_untargeted=100,
        cuts=("round", "detach"),
        past_cuts=broken,
        by_lines=(),
        by_others={},
        by_guards=0,
    )
    sentence = "The model cuts its gradient (round, detach): a gradient that passes straight through broke 3 images"
    assert any(each.startswith(sentence) for each in found) is warns


@pytest.mark.parametrize(
    ("count", "broken", "warns"), [(60, 1, False), (60, 2, True), (1000, 2, False), (1000, 3, True)]
)
@pytest.mark.parametrize("name", guards.EXTRA_ATTACKS)
def test_another_way_may_break_one_image_or_one_in_five_hundred(name, count, broken, warns):
    found = guards.warnings(
        search_of(count),
        by_untargeted=50,
        cuts=(),
        past_cuts=0,
        by_lines=(),
        by_others={name: broken},
        by_guards=0,
    )
    assert (guards.EXTRA_ATTACKS[name].warning.format(broken) in found) is warns


@pytest.mark.parametrize(
    ("broken", "left", "num_images", "many"),
    [(2, 100, 60, False), (3, 100, 60, True), (2, 3, 60, True), (2, 2, 1000, False), (3, 20, 1000, True)],
)
def test_fab_breaks_many_if_it_breaks_over_a_tenth_of_what_it_tries(broken, left, num_images, many):
    """Of eight images: the exact lower bound of 2 in 8 is 4.6%, of 3 in 8 it is 11.1%."""
    assert guards.fab_breaks_many(broken, left, guards.FAB, num_images) is many


def test_nan_gradients_past_the_cuts_are_none_of_the_model_s():
    search = search_of(10)
    own, through = search.target, Rounded()
    with search.attacking(through):
        assert search.target is through
        search.nonfinite[:] = True
    assert search.target is own
    assert not search.nonfinite.any()


class Blank(nn.Module):
    """Two equal logits, and a list of the batches that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append(images.clone())
        return images.new_tensor([1.0, 0.0]).expand(len(images), 2)


def test_batches_too_small_for_square_are_tried_with_random_numbers_of_their_own():
    """Two batches of the same two images in L2, which no proposal improves: the proposals differ, but not per run."""

    def tried() -> tuple[list[Tensor], list[Tensor]]:
        model = Blank()
        images, labels = torch.full((4, 1, 6, 6), 0.5), torch.zeros(4, dtype=torch.long)
        search = Search(guard(model), 1, images, labels, Ball("L2", 0.3), 2)
        model.asked.clear()
        guards.search_by_square(search, torch.arange(4), seed=7, queries=6)
        proposals = [batch for batch in model.asked if not torch.equal(batch, images[:2])]
        assert len(proposals) >= 12
        return proposals[:6], proposals[6:12]

    first, second = tried()
    assert not any(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    again = tried()
    assert all(torch.equal(one, other) for one, other in zip((*first, *second), (*again[0], *again[1]), strict=True))


def test_square_keeps_to_the_limit_of_queries_on_all_images_together():
    """4,000 queries on 20 images are 200 for each of them, in place of 2,000; the first trial has 100 on 16 images."""
    images, labels = torch.full((20, 1, 12, 12), 0.7), torch.zeros(20, dtype=torch.long)
    result = worst_case_attack(Rounded(), images, labels, epsilon=0.01, queries=4000)
    first, second = (stage.cost.forward_images for stage in result.stages if stage.name == "Square")
    assert (first, second) == (pytest.approx(1600, rel=0.1), pytest.approx(4000, rel=0.1))
