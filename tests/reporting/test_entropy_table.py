from __future__ import annotations

import pytest

from ibrobust.reporting.entropy_table import COLUMNS, entropy_table

RECORD = {**dict.fromkeys(COLUMNS.values(), 1.0), "num_points": 10, "num_neighbors": 3, "noise": True}


@pytest.mark.parametrize("means", [True, False])
def test_the_caption_names_models_whose_latents_are_means_of_gaussians(means):
    table = entropy_table({"a": {**RECORD, "means_of_gaussians": means}}, dataset="digits")
    assert ("of a: the means of its Gaussians" in str(table.caption)) is means
