"""CONTRIBUTING.md names files and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_named_files_exist():
    named = re.findall(r"`(?:pytest )?((?:ibrobust|tests|docs)/[\w./]+)`", TEXT)
    assert len(named) > 10
    assert [name for name in named if not (CHECKOUT / name).exists()] == []


def test_named_targets_exist():
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    named = {target for command in re.findall(r"\bmake ([a-z ]+)\b", TEXT) for target in command.split()}
    assert {"setup", "test"} <= named
    assert [target for target in named if f"\n{target}:" not in makefile] == []
