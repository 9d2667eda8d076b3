"""The page on attacks runs from top to bottom, and names what exists."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from light_audit import lighten

from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.audit.subject import QUICK

PAGE = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")


# The same with fewer images, for less time.
MORE, FEWER = "test.subset(20)", "test.subset(6)"


def test_its_examples_run(monkeypatch):
    lighten(monkeypatch, replace(QUICK, steps=10, queries=20, random_draws=10))
    assert PAGE.count(MORE) == 1
    names: dict[str, Any] = {"__name__": "attacks_page"}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.S | re.M)
    for block in blocks:
        exec(compile(block.replace(MORE, FEWER), "attacks.md", "exec"), names)
    assert len(blocks) == 7
    assert names["curve"][0].robust_accuracy >= names["curve"][-1].robust_accuracy
    assert names["report"].attacks[0][0].endswith("towards_grey")


def test_the_names_of_its_table_are_attacks():
    column = re.findall(r"^\| [^|]+ \| (`[^|]+`) \|", PAGE, flags=re.M)
    written = [name for cell in column for name in re.findall(r"`([^`]+)`", cell)]
    ours = [name for name in written if not name.startswith("my_module")]
    assert len(ours) == 8
    for name in (name for name in ours if not name.startswith("adv_lib")):
        assert read_attack(name)
