"""A fingerprint of a function or a module: what changes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ibrobust.evaluation.attacks.fingerprint import fingerprint

NAMES = ("first", "second", "third", "fourth", "fifth", "sixth")


@pytest.mark.parametrize("changed", NAMES)
def test_every_value_of_a_dictionary_counts(changed):
    def with_values(values):
        return fingerprint(lambda image: values and image)

    before = dict.fromkeys(NAMES, 0.0)
    assert with_values(before) == with_values(dict(before))
    assert with_values(before) != with_values({**before, changed: 1.0})


@pytest.mark.parametrize("changed", NAMES)
def test_every_attribute_of_every_part_of_a_module_counts(changed):
    def with_attributes(values):
        parts = nn.Sequential(nn.Flatten(), nn.Flatten(), nn.ReLU())
        for part in parts:
            vars(part).update(values)
        vars(parts[-1]).update({changed: values[changed]})
        return fingerprint(parts)

    before = dict.fromkeys(NAMES, 0.0)
    assert with_attributes(before) == with_attributes(dict(before))
    assert with_attributes(before) != with_attributes({**before, changed: 1.0})


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (np.array(["cat", "dog"]), np.array(["cat", "cow"])),
        (np.array([1, None], dtype=object), np.array([2, None], dtype=object)),
        (torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse()),
        (torch.zeros(2, device="meta"), torch.zeros(3, device="meta")),
        (np.array([1.0, 2.0], dtype=">f4"), np.array([1.0, 3.0], dtype=">f4")),
        (torch.tensor([1j]).conj(), torch.tensor([2j]).conj()),
        (np.float32(0.1), np.float32(0.2)),
        (np.bool_(True), np.bool_(False)),
        (torch.float32, torch.float64),
        (range(3), range(4)),
    ],
)
def test_arrays_and_tensors_of_other_kinds_count(value, other):
    def with_value(values):
        return fingerprint(lambda image: values is image)

    assert with_value(value) != with_value(other)
