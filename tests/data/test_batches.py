from __future__ import annotations

import pytest
import torch

from ibrobust.data.batches import balanced_batches, shuffled_batches
from ibrobust.errors import IbrobustError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shuffled_batches_use_no_image_twice():
    batches = shuffled_batches(torch.zeros(103, dtype=torch.long), 10, generator())
    assert batches.shape == (10, 10)
    assert batches.unique().numel() == 100


def test_balanced_batches_have_equally_many_of_each_class():
    labels = torch.arange(5).repeat(40)
    for batch in balanced_batches(labels, 20, generator()):
        assert labels[batch].bincount().tolist() == [4] * 5


def test_balanced_batches_of_balanced_data_use_every_image_once():
    labels = torch.arange(5).repeat(40)
    assert balanced_batches(labels, 20, generator()).flatten().sort().values.tolist() == list(range(200))


def test_a_batch_that_classes_do_not_divide_differs_by_one_at_most():
    labels = torch.arange(10).repeat(40)
    for batch in balanced_batches(labels, 128, generator()):
        assert set(labels[batch].bincount().tolist()) == {12, 13}


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_class_without_images_has_no_place_in_a_batch(missing):
    labels = torch.tensor([label for label in range(3) if label != missing] * 20)
    batches = balanced_batches(labels, 10, torch.Generator().manual_seed(0))
    assert batches.shape == (4, 10)
    assert sorted(batches.flatten().tolist()) == list(range(40))
    for batch in batches:
        assert sorted(torch.bincount(labels[batch], minlength=3).tolist()) == [0, 5, 5]


def test_a_small_class_is_in_every_batch_all_the_same():
    labels = torch.cat([torch.zeros(95, dtype=torch.long), torch.ones(5, dtype=torch.long)])
    for batch in balanced_batches(labels, 20, generator()):
        assert labels[batch].bincount().tolist() == [10, 10]


@pytest.mark.parametrize(("small", "batch_size"), [(10, 16), (9, 16), (8, 16), (7, 13)])
def test_a_class_that_starts_again_is_in_no_batch_twice(small, batch_size):
    labels = torch.cat([torch.zeros(small, dtype=torch.long), torch.ones(400, dtype=torch.long)])
    batches = balanced_batches(labels, batch_size, generator())
    assert all(len(batch.unique()) == batch_size for batch in batches)
    used = batches.flatten().bincount(minlength=len(labels))[:small]
    assert int(used.max() - used.min()) <= 1, "every image once, then every image again"


@pytest.mark.parametrize("draw", [shuffled_batches, balanced_batches])
def test_a_seed_gives_the_same_batches_twice(draw):
    labels = torch.arange(5).repeat(20)
    assert torch.equal(draw(labels, 10, generator(3)), draw(labels, 10, generator(3)))


@pytest.mark.parametrize("draw", [shuffled_batches, balanced_batches])
def test_a_batch_larger_than_the_data_is_refused(draw):
    with pytest.raises(IbrobustError, match="batch size 200"):
        draw(torch.arange(5).repeat(20), 200, generator())


def test_a_balanced_batch_smaller_than_the_number_of_classes_is_refused():
    with pytest.raises(IbrobustError, match="5 classes"):
        balanced_batches(torch.arange(5).repeat(20), 4, generator())
