"""A fingerprint of a function or a module: what changes it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ibrobust.evaluation.attacks.fingerprint import fingerprint

MODEL = """
from torch import nn


class Scaled(nn.Module):
    def forward(self, images):
        return {factor} * images.flatten(1)


model = nn.Sequential(Scaled())
"""


def fingerprint_of(text: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("scaled", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scaled", module)
    spec.loader.exec_module(module)
    return fingerprint(module.model)


def test_a_module_with_another_forward_has_another_fingerprint(tmp_path, monkeypatch):
    texts = {"first": 2, "again": 2, "other": 3}
    found = {
        name: fingerprint_of(MODEL.format(factor=factor), tmp_path / f"{name}.py", monkeypatch)
        for name, factor in texts.items()
    }
    assert found["first"] == found["again"]
    assert found["first"] != found["other"]


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
    ],
)
def test_arrays_and_tensors_of_other_kinds_count(value, other):
    def with_value(values):
        return fingerprint(lambda image: values is image)

    assert with_value(value) != with_value(other)
