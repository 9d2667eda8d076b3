from __future__ import annotations

import re

from ibrobust.reporting.html.charts import LEFT, RIGHT, WIDTH
from ibrobust.reporting.html.training_curves import training_curves


def test_a_curve_reaches_from_one_edge_of_the_frame_to_the_other():
    ((_, path),) = training_curves([{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}]).lines
    across = [float(x) for x, _ in re.findall(r"([\d.]+) ([\d.]+)", path)]
    assert across == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
