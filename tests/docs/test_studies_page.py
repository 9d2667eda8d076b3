"""The page on studies: its study files are valid, and it names every evaluation."""

from __future__ import annotations

import re
from pathlib import Path

from ibrobust.study.spec import Evaluations, read_study

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
STUDIES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_its_study_files_are_valid(tmp_path: Path):
    path = tmp_path / "study.yaml"
    names = []
    for text in STUDIES:
        path.write_text(text, encoding="utf-8")
        names.append(read_study(path).name)
    assert names == ["mine", "two-models"]


def test_its_table_has_every_evaluation():
    table = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert {*table, "train_accuracy"} == set(Evaluations.model_fields)
