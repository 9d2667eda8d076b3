from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ibrobust.reporting.entropy_table import COLUMNS, entropy_table

RECORD = {**dict.fromkeys(COLUMNS.values(), 1.0), "num_points": 10, "num_neighbors": 3, "noise": True}


@pytest.mark.parametrize("means", [True, False])
def test_the_caption_names_models_whose_latents_are_means_of_gaussians(means):
    table = entropy_table({"a": {**RECORD, "means_of_gaussians": means}}, dataset="digits")
    assert ("of a: the means of its Gaussians" in str(table.caption)) is means


def test_each_number_stands_below_its_quantity():
    values = {"entropy": 1.0, "conditional_entropy": 2.0, "mutual_information": 3.0, "label_information": 4.0}
    console = Console(file=io.StringIO(), width=200)
    console.print(entropy_table({"a": {**RECORD, **values, "noise_floor": 5.0}}, dataset="digits"))
    lines = [re.split(r"\s{2,}", line.strip()) for line in console.file.getvalue().splitlines()]
    header = next(cells for cells in lines if cells[0] == "model")
    numbers = next(cells for cells in lines if cells[0] == "a")
    assert list(zip(header, numbers, strict=True)) == [
        ("model", "a"),
        ("H[Z]", "1.00"),
        ("H[Z|Y]", "2.00"),
        ("I[Y;Z]", "3.00"),
        ("H[Y|Z] <=", "4.00"),
        ("floor", "5.00"),
    ]
