from __future__ import annotations

import pytest
import torch

from ibrobust.data import Dataset, Split, channel_statistics, load_dataset, to_unit_range
from ibrobust.errors import IbrobustError
from ibrobust.spread import spread_evenly


def test_to_unit_range_maps_the_ends_exactly():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert torch.equal(to_unit_range(images), torch.tensor([0.0, 51 / 255, 1.0]))


def test_channel_statistics_equal_the_float64_definition():
    images = torch.randint(0, 256, (50, 3, 7, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    values = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean).double(), values.mean((0, 2, 3)), rtol=0, atol=1e-7)
    torch.testing.assert_close(torch.tensor(std).double(), values.std((0, 2, 3), correction=0), rtol=0, atol=1e-7)


def test_digits_are_split_without_overlap_and_completely():
    digits = load_dataset("digits")
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.train.images.shape[1:] == (3, 32, 32)
    assert digits.train.images.dtype == torch.uint8
    assert digits.class_names == tuple("0123456789")


def test_enlarged_digits_keep_the_mean_brightness_of_the_originals():
    from sklearn.datasets import load_digits

    digits = load_dataset("digits")
    original = torch.from_numpy(load_digits().images)[torch.arange(1797) % 5 == 0] * 255 / 16
    enlarged = digits.test.images[:, 0].double().mean((1, 2))
    torch.testing.assert_close(enlarged, original.mean((1, 2)), rtol=0, atol=1.0)


def test_the_fingerprint_changes_with_one_pixel():
    digits = load_dataset("digits")
    images = digits.test.images.clone()
    images[0, 0, 0, 0] ^= 1
    changed = type(digits)(digits.name, digits.class_names, digits.train, Split(images, digits.test.labels))
    assert changed.fingerprint != digits.fingerprint


def test_the_fingerprint_changes_with_one_label():
    digits = load_dataset("digits")
    labels = digits.test.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    changed = type(digits)(digits.name, digits.class_names, digits.train, Split(digits.test.images, labels))
    assert changed.fingerprint != digits.fingerprint


def test_a_subset_of_a_sorted_split_has_every_class_alike():
    labels = torch.arange(10).repeat_interleave(100)
    split = Split(torch.zeros(1000, 3, 1, 1, dtype=torch.uint8), labels)
    assert split.subset(50).labels.bincount().tolist() == [5] * 10


def test_a_subset_has_every_class_alike_if_the_labels_repeat_with_its_spacing():
    split = Split(torch.zeros(1000, 3, 1, 1, dtype=torch.uint8), torch.arange(1000) % 10)
    assert split.subset(100).labels.bincount().tolist() == [10] * 10


def test_a_subset_of_images_in_a_random_order_is_evenly_spaced():
    labels = torch.randint(10, (10_000,), generator=torch.Generator().manual_seed(0))
    assert spread_evenly(labels, 1000).equal(torch.arange(0, 10_000, 10))


def test_classes_of_other_sizes_keep_their_shares():
    labels = torch.tensor([0, 1, 0, 2] * 100)
    assert labels[spread_evenly(labels, 50)].bincount().tolist() == [25, 13, 12]


def test_a_subset_larger_than_the_split_is_the_split():
    split = load_dataset("digits").test
    assert split.subset(10_000) is split


@pytest.mark.parametrize("highest", [1, 16])
def test_images_on_a_scale_of_their_own_are_refused(highest):
    images = torch.full((4, 1, 2, 2), highest, dtype=torch.uint8)
    with pytest.raises(IbrobustError, match=f"no value above {highest} of 255.*multiply them by {255 // highest}"):
        Dataset.of((images, [0, 1, 0, 1]))
    assert len(Dataset.of((images, [0, 1, 0, 1]), train=(images + 17, [0, 1, 0, 1])).test) == 4
