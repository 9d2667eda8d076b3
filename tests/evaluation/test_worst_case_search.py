"""What the worst-case attack remembers of its images: which of them are near, and how far each class is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.worst_case_attack.search import Search
from ibrobust.evaluation.worst_case_attack.stages import by_linearised_distance


class TwoPixels(nn.Module):
    """Images (B, 1, 1, 2) -> logits (B, 3); at grey (1, 0, 0), with gradients of (0, 0), (3, 0) and (2, 2)."""

    def forward(self, images: Tensor) -> Tensor:
        first, second = (images.flatten(1) - 0.5).unbind(dim=1)
        return torch.stack([torch.ones_like(first) + 0.0 * first, 3 * first, 2 * first + 2 * second], dim=1)


def search_in(norm: str) -> Search:
    """A search of one grey image."""
    return Search(guard(TwoPixels()), 1, torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), Ball(norm, 0.1), 250)


@pytest.mark.parametrize(("norm", "order"), [("Linf", [2, 1]), ("L2", [1, 2])])
def test_the_linearised_distance_is_in_the_norm_of_the_ball(norm, order):
    """In L-infinity the classes are 1/3 and 1/4 away, in L2 1/3 and 1/sqrt(8)."""
    for given in (order, order[::-1]):
        found = by_linearised_distance(search_in(norm), torch.tensor([0]), torch.tensor([given]))
        assert found.tolist() == [order]


@pytest.mark.parametrize(("factor", "reached"), [(1.0, True), (1.4, True), (1.6, False), (2.0, False)])
def test_an_image_that_was_misclassified_within_1_4_radii_is_remembered(factor, reached):
    """These images are attacked in slowly shrinking balls later."""
    search, no = search_in("Linf"), torch.tensor([False])
    run = SimpleNamespace(nonfinite=no, reached=~no, broken=no, gaps=search.gaps.clone(), last=search.images)
    run.margins, run.found = torch.tensor([-1.0]), search.images
    search.learn(torch.tensor([0]), run, factor=factor)
    assert search.reached.tolist() == [reached]
