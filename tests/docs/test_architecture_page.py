"""The page on the architecture names every file of the package, except those of the commands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_file_is_named():
    files = {path.name: path for path in (ROOT / "ibrobust").rglob("*.py") if path.parent.name != "cli"}
    named = re.findall(r"`(\w+\.py)`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert files.keys() <= set(named), files.keys() - set(named)
