"""The tutorial runs from top to bottom, as the notebook that is made of it, and what it says comes true."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def notebook_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tutorial_notebook", DOCS / "tutorial_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_becomes_code_and_markdown_cells(notebook_module: ModuleType):
    page = "# Title\n\n```python\na = 1\n\nb = 2\n```\n\nText with ```inline``` code.\n\n```\nno Python\n```\n"
    cells = json.loads(notebook_module.notebook(page))["cells"]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == [
        ("markdown", "# Title"),
        ("code", "a = 1\n\nb = 2"),
        ("markdown", "Text with ```inline``` code.\n\n```\nno Python\n```"),
    ]


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(notebook_module: ModuleType):
    page = json.loads(notebook_module.notebook((DOCS / "tutorial.md").read_text(encoding="utf-8")))
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in page["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"tutorial.md, {cell['id']}", "exec"), names)

    assert names["ibrobust"].list_models("tutorial-*") == ["tutorial-baseline", "tutorial-hinge", "tutorial-knn"]
    assert names["report"].clean_accuracy > 0.8
    assert names["sweep"].zero_gradient_share > 0.5
    assert names["masked"].verdict == "not real, vanishing"
    assert names["masked"].worst_case_accuracy < 0.5 < names["masked"].fgsm_accuracy
    assert names["own"].clean_accuracy > 0.8
    assert {name: record.accuracy > 0.8 for name, record in names["card"].clean_accuracy.items()} == {
        "head": True,
        "nearest_mean": True,
    }
