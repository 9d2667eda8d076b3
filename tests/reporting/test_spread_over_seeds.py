"""Models that differ in their seed alone: a line goes through their mean and shows how far apart they are."""

from __future__ import annotations

import re

import pytest

from ibrobust.records import read_study_records
from ibrobust.reporting.figures.fgsm import draw_fgsm
from ibrobust.reporting.figures.generalization import draw_generalization
from ibrobust.reporting.figures.series import fgsm_lines
from ibrobust.reporting.html.charts import epsilon_charts


@pytest.fixture
def two_seeds(study_rows, write_records):
    """FGSM leaves 60% with one seed, and 20% with the other, of which it did not change half of the images."""
    found = {
        ("accuracy", 0): 0.6,
        ("accuracy", 1): 0.2,
        ("zero_gradient_share", 0): 0.0,
        ("zero_gradient_share", 1): 0.5,
    }
    rows = [
        {**row, "value": found[row["quantity"], row["seed"]]}
        for row in study_rows
        if (row["beta"], row["noise"], row.get("decoder"), row.get("attack")) == (0.01, True, "logistic", "FGSM")
        and row.get("epsilon") in (None, 4 / 255)
    ]
    return read_study_records(write_records(rows))


def test_a_line_is_masked_if_one_of_its_seeds_is(two_seeds):
    (line,) = fgsm_lines(two_seeds)
    assert (line.unattacked, line.is_marked) == (0.5, True)


def test_the_band_of_a_chart_reaches_from_the_smallest_to_the_largest(two_seeds):
    (chart,) = epsilon_charts(two_seeds)
    (curve,) = chart.curves
    at = {label: place for place, label in chart.y_ticks}
    assert {float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", curve.band)} == {at["20"], at["60"]}


def test_the_band_of_a_figure_reaches_from_the_smallest_to_the_largest(two_seeds, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("ibrobust.reporting.figures.accuracy.save", lambda figure, *_: drawn.append(figure))
    draw_fgsm(two_seeds, tmp_path)
    (band,) = drawn[0].axes[0].collections
    heights = {float(y) for _, y in band.get_paths()[0].vertices}
    assert (min(heights), max(heights)) == pytest.approx((0.2, 0.6))


def test_a_whisker_reaches_from_the_smallest_error_to_the_largest(study_rows, write_records, tmp_path, monkeypatch):
    """Errors of 0.1, 0.1 and 0.4: their mean is 0.2, so the whisker is longer above it than below."""
    drawn = []
    monkeypatch.setattr("ibrobust.reporting.figures.generalization.save", lambda figure, *_: drawn.append(figure))
    row = next(row for row in study_rows if row["quantity"] == "test_accuracy")
    rows = [{**row, "cell": f"s{seed}", "seed": seed, "value": value} for seed, value in enumerate((0.9, 0.9, 0.6))]
    draw_generalization(read_study_records(write_records(rows)), tmp_path)
    whiskers = [segment for lines in drawn[0].axes[0].collections for segment in lines.get_segments()]
    assert [sorted(y for _, y in whisker) for whisker in whiskers] == [pytest.approx([0.1, 0.4])]
