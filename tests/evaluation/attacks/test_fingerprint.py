"""A fingerprint of a module: what changes it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

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
