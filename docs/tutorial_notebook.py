"""A Markdown page as a Jupyter notebook, without anything but the standard library."""

from __future__ import annotations

import json
import re

PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def notebook(markdown: str) -> str:
    """Return a page as a notebook in JSON: each Python block is a code cell, the text between them is Markdown."""
    # Of the alternating parts that split gives, every second one is the inside of a block.
    parts = enumerate(PYTHON_BLOCK.split(markdown))
    cells = [_cell(index, text.strip(), is_code=index % 2 == 1) for index, text in parts if text.strip()]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(index: int, text: str, *, is_code: bool) -> dict[str, object]:
    cell: dict[str, object] = {"id": f"cell-{index}", "metadata": {}, "source": text.splitlines(keepends=True)}
    if is_code:
        return {**cell, "cell_type": "code", "execution_count": None, "outputs": []}
    return {**cell, "cell_type": "markdown"}
