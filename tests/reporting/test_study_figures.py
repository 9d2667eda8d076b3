from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from ibrobust.errors import IbrobustError
from ibrobust.records import UNKNOWN, read_study_records
from ibrobust.reporting.figures.attacks import attack_panels, draw_attacks
from ibrobust.reporting.figures.draw import FIGURES, draw_study_figures
from ibrobust.reporting.figures.fgsm import draw_fgsm
from ibrobust.reporting.figures.generalization import beta_places, draw_generalization, generalization_errors
from ibrobust.reporting.figures.information_plane import draw_information_plane, fading, trajectories
from ibrobust.reporting.figures.series import Line, arrange, fgsm_lines, fgsm_panels, make_point, robust_lines
from ibrobust.reporting.figures.settings import Setting, averaged_over, hidden_settings
from ibrobust.reporting.figures.style import (
    COLUMN_WIDTH,
    TEXT_WIDTH,
    baseline_colour,
    beta_colours,
    grid_of_axes,
    legend_below,
    looks,
    spread,
    study_style,
)


@pytest.fixture
def records(study_rows, write_records):
    return read_study_records(write_records(study_rows))


def line(panel, label):
    return next(line for line in panel.lines if line.setting.label() == label)


def test_the_legend_has_every_name_as_it_is():
    from matplotlib.lines import Line2D

    names = ["_hidden", r"a$\q$b"]
    with study_style() as new:
        figure = new(COLUMN_WIDTH, 3.0)
        legend_below(figure, {name: Line2D([], []) for name in names}, note=r"$\q$")
        figure.canvas.draw()  # where wrong mathematics would fail
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


# What is read


def test_records_are_read_back_as_they_were_written(study_rows, write_records):
    found = read_study_records(write_records(study_rows))
    for row, record in zip(study_rows, found, strict=True):
        assert {key: value for key, value in vars(record).items() if value not in (None, "")} == {
            key: value for key, value in row.items() if value is not None
        }


@pytest.mark.parametrize(("text", "noise"), [("True", True), ("false", False), ("1.0", True), ("", None)])
def test_noise_is_read_however_a_program_writes_it(study_rows, write_records, text, noise):
    assert read_study_records(write_records([{**study_rows[0], "noise": text}]))[0].noise is noise


def test_whole_numbers_survive_pandas(study_rows, write_records):
    seed = 2**62 + 1  # more than a float holds
    record = read_study_records(write_records([{**study_rows[0], "width": "8.0", "seed": seed}]))[0]
    assert (record.width, record.seed) == (8, seed)


@pytest.mark.parametrize(
    ("column", "text"), [("value", "high"), ("width", "8.5"), ("noise", "perhaps"), ("beta", "nan"), ("cell", "")]
)
def test_what_is_no_value_of_its_column_is_named(study_rows, write_records, column, text):
    with pytest.raises(IbrobustError, match=f"Line 3 .*{text!r} for {column}"):
        read_study_records(write_records([study_rows[0], {**study_rows[1], column: text}]))


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "records.csv").write_text("study,cell\n")
    with pytest.raises(IbrobustError, match="no column 'model'"):
        read_study_records(tmp_path / "records.csv")


def test_a_line_that_is_cut_short_is_named(study_rows, write_records):
    path = write_records(study_rows[:3])
    path.write_text(path.read_text().rstrip().rsplit(",", 4)[0] + "\n")
    with pytest.raises(IbrobustError, match="Line 4 .*None for"):
        read_study_records(path)


# What is drawn


def test_a_point_is_the_mean_over_seeds_and_its_band_the_extremes(study_rows, records):
    point = next(p for p in line(fgsm_panels(records)[0], "β = 0.01, noise").points if p.x == 8 / 255)
    values = [
        row["value"]
        for row in study_rows
        if (row["beta"], row["noise"], row.get("decoder"), row.get("attack"), row["quantity"], row.get("epsilon"))
        == (0.01, True, "gaussian_mixture", "FGSM", "accuracy", 8 / 255)
    ]
    assert len(values) == 2
    assert (point.mean, point.low, point.high) == (pytest.approx(sum(values) / 2), min(values), max(values))


def test_a_panel_a_decoder_with_the_baselines_by_the_same_or_else_by_their_named_head(records):
    panels = fgsm_panels(records)
    assert [panel.title for panel in panels] == ["Gaussian-mixture decoder", "logistic decoder"]
    wanted = (
        [("cross-entropy", "gaussian_mixture"), ("DropConnect 0.5", "gaussian_mixture")],
        [("cross-entropy (head)", "head"), ("DropConnect 0.5 (head)", "head")],
    )
    for panel, baselines in zip(panels, wanted, strict=True):
        assert [(each.setting.label(), each.decoder) for each in panel.lines[-2:]] == baselines
        assert len(panel.lines) == 6 * 2 + 2


def _baseline_accuracies(panel, rows, attack, quantity):
    """Each baseline's label, and its accuracies at 8/255 in the panel and, by decoder, in the rows."""
    found = {}
    for each in panel.lines:
        if each.setting.is_baseline:
            of_it = [
                row
                for row in rows
                if (row["beta"], row["dropconnect"]) == (None, each.setting.dropconnect)
                and (row.get("attack"), row["quantity"], row.get("epsilon")) == (attack, quantity, 8 / 255)
            ]
            by_decoder = {
                decoder: sum(row["value"] for row in of_it if row["decoder"] == decoder) / 2
                for decoder in ("head", "gaussian_mixture")
            }
            drawn = next(point.mean for point in each.points if point.x == 8 / 255)
            found[each.setting.label()] = [name for name, mean in by_decoder.items() if mean == pytest.approx(drawn)]
    return found


@pytest.mark.parametrize("attacked", ["all decoders", "cross-entropy by its head alone"])
def test_the_panels_of_fgsm_and_of_an_attack_show_a_baseline_with_the_same_decoder(study_rows, write_records, attacked):
    rows = [row for row in study_rows if row.get("decoder") in ("gaussian_mixture", "head")]
    if attacked != "all decoders":
        rows = [
            row
            for row in rows
            if row["quantity"] != "worst_case_accuracy"
            or row["beta"] is not None
            or row["dropconnect"]
            or row["decoder"] == "head"
        ]
    fgsm, worst = attack_panels(read_study_records(write_records(rows)))
    assert (fgsm.title, worst.title) == ("FGSM", "worst case")
    wanted = {"cross-entropy": ["gaussian_mixture"], "DropConnect 0.5": ["gaussian_mixture"]}
    if attacked != "all decoders":
        wanted = {"cross-entropy (head)": ["head"], "DropConnect 0.5": ["gaussian_mixture"]}
    assert _baseline_accuracies(fgsm, rows, "FGSM", "accuracy") == wanted
    assert _baseline_accuracies(worst, rows, "worst case", "worst_case_accuracy") == wanted


def test_the_legend_of_test_errors_names_the_decoder_of_each_baseline(study_rows, write_records, tmp_path, monkeypatch):
    legends = []
    legend = "ibrobust.reporting.figures.generalization.legend_below"
    monkeypatch.setattr(legend, lambda figure, entries, note: legends.append(list(entries)))
    draw_generalization(read_study_records(write_records(study_rows)), tmp_path)
    assert legends[0][-2:] == ["cross-entropy (head)", "DropConnect 0.5 (head)"]


def test_a_model_that_fgsm_could_not_attack_is_masked_in_its_panel_alone(records):
    mixture, logistic = fgsm_panels(records)
    assert [each.setting.label() for each in mixture.lines if each.is_marked] == ["β = 0.3, noise"]
    assert line(mixture, "β = 0.3, noise").unattacked == 0.37
    assert not any(each.is_marked for each in logistic.lines)


def test_a_gradient_that_is_not_finite_masks_as_well(study_rows, write_records):
    rows = [row for row in study_rows if row["beta"] == 0.01 and row["quantity"] in ("accuracy", "zero_gradient_share")]
    rows += [
        {**row, "quantity": "nonfinite_gradient_share", "value": 0.02}
        for row in rows
        if row["quantity"] == "zero_gradient_share"
    ]
    panels = fgsm_panels(read_study_records(write_records(rows)))
    assert all(each.is_marked for panel in panels for each in panel.lines)


def test_fgsm_on_other_images_is_not_mixed_into_the_sweep(study_rows, write_records, records):
    other = [
        {**row, "num_images": 10, "value": 0.0}
        for row in study_rows
        if row.get("attack") == "FGSM" and row["quantity"] == "accuracy"
    ]
    assert fgsm_panels(read_study_records(write_records(study_rows + other))) == fgsm_panels(records)


def test_clean_accuracy_on_other_images_is_no_point_of_the_line(study_rows, write_records):
    rows = [row for row in study_rows if row.get("epsilon") != 0.0]
    assert fgsm_panels(read_study_records(write_records(rows)))[0].lines[0].points[0].x == 0.0
    for row in rows:
        if row["quantity"] == "clean_accuracy":
            row["num_images"] = 999
    assert fgsm_panels(read_study_records(write_records(rows)))[0].lines[0].points[0].x == 1 / 255


def test_models_of_other_widths_have_a_panel_of_their_own(study_rows, write_records):
    rows = study_rows + [{**row, "width": 16, "cell": f"{row['cell']}-w16"} for row in study_rows]
    panels = fgsm_panels(read_study_records(write_records(rows)))
    assert [panel.title for panel in panels] == [
        "Gaussian-mixture decoder, width 8",
        "logistic decoder, width 8",
        "Gaussian-mixture decoder, width 16",
        "logistic decoder, width 16",
    ]
    assert [{each.setting.width for each in panel.lines} for panel in panels] == [{8}, {8}, {16}, {16}]


def test_what_only_the_setting_tells_has_a_panel_of_its_own(study_rows, write_records):
    rows = [
        {**row, "setting": f"num_neighbors {k}", "cell": f"{row['cell']}-k{k}"} for k in (3, 5) for row in study_rows
    ]
    found = read_study_records(write_records(rows))
    assert {panel.title for panel in fgsm_panels(found)} == {
        f"{decoder} decoder, num_neighbors {k}" for decoder in ("Gaussian-mixture", "logistic") for k in (3, 5)
    }
    assert not hidden_settings(found)


def test_cells_that_the_records_do_not_tell_apart_are_noticed(study_rows, write_records, records):
    twice = study_rows + [{**row, "cell": f"{row['cell']}-again"} for row in study_rows]
    assert hidden_settings(read_study_records(write_records(twice)))
    assert not hidden_settings(records)


def test_a_note_says_how_many_seeds_the_points_have(records):
    assert averaged_over([1, 1], records) is None
    assert averaged_over([3, 3], records) == "mean of 3 seeds"
    assert averaged_over([3, 1], records) == "mean of 1 to 3 seeds"


@pytest.fixture
def noisy_baseline_rows(study_rows):
    """The rows of a study with another objective that adds noise and has no beta, with and without that noise."""
    return study_rows + [
        {**row, "objective": "mine", "cell": f"mine-{noise}-{row['seed']}", "noise": noise}
        for row in study_rows
        if row["beta"] is None and not row["dropconnect"]
        for noise in (True, False)
    ]


def test_a_baseline_with_noise_is_another_line_than_one_without(noisy_baseline_rows, write_records, records):
    for row in noisy_baseline_rows:
        row["value"] /= 2 if row["cell"].startswith("mine-True") else 1
    found = read_study_records(write_records(noisy_baseline_rows))
    plain, with_noise, without = (
        [
            {(point.x, point.mean, point.cells) for point in line(panel, f"{name}{decoder}").points}
            for panel, decoder in zip(fgsm_panels(found), ("", " (head)"), strict=True)
        ]
        for name in ("cross-entropy", "mine, noise", "mine, no noise")
    )
    assert without == plain
    assert with_noise == [{(x, mean / 2, cells) for x, mean, cells in panel} for panel in plain]
    assert not hidden_settings(found)
    labels = [[each.setting.label() for each in panel.lines] for panel in fgsm_panels(found)]
    assert [
        set(names) - {each.setting.label() for each in panel.lines}
        for names, panel in zip(labels, fgsm_panels(records), strict=True)
    ] == [{"mine, noise", "mine, no noise"}, {"mine, noise (head)", "mine, no noise (head)"}]
    settings = list(dict.fromkeys(each.setting for panel in fgsm_panels(found) for each in panel.lines))
    styles = looks(settings, sorted({each.beta for each in settings if each.beta is not None})).values()
    assert len({(look.colour, look.dashes, look.marker) for look in styles}) == len(settings)


def test_a_baseline_with_noise_alone_needs_no_word_for_it(noisy_baseline_rows, write_records, tmp_path, monkeypatch):
    legends = []
    legend = "ibrobust.reporting.figures.accuracy.legend_below"
    monkeypatch.setattr(legend, lambda figure, entries, note: legends.append(list(entries)))
    rows = [row for row in noisy_baseline_rows if row["cell"].startswith("mine-True")]
    draw_fgsm(read_study_records(write_records(rows)), tmp_path)
    assert legends == [["mine"]]


def test_the_information_plane_has_a_baseline_with_noise_among_models_with_noise(
    noisy_baseline_rows, write_records, tmp_path, monkeypatch
):
    drawn, titles = [], []
    module = "ibrobust.reporting.figures.information_plane"
    monkeypatch.setattr(f"{module}.save", lambda figure, *_: drawn.append(figure))
    monkeypatch.setattr(f"{module}.name_panels", lambda places, names: titles.append(names))
    draw_information_plane(read_study_records(write_records(noisy_baseline_rows)), tmp_path)
    own = [row for row in noisy_baseline_rows if row["beta"] is None]
    draw_information_plane(read_study_records(write_records(own)), tmp_path)
    assert titles == [
        ["with zero-entropy noise", "without noise"],
        ["without bottleneck, with zero-entropy noise", "without bottleneck"],
    ]
    labels = ["preserved: I[X;Z] = H[Z] (nats)", "H[Z] (nats)"]
    assert [[axes.get_ylabel() for axes in figure.axes] for figure in drawn] == [labels, labels]
    # Its last point has a large marker: one per trajectory.
    ends = [[sum(each.get_markersize() == 5.5 for each in axes.lines) for axes in figure.axes] for figure in drawn]
    assert ends == [[6 + 1, 6 + 1 + 2], [1, 1 + 2]]


@pytest.fixture
def attacked_rows(study_rows):
    """The rows with PGD and AutoAttack on the logistic decoder and the heads, and no worst case."""
    rows = [row for row in study_rows if row["quantity"] != "worst_case_accuracy"]
    for row in study_rows:
        if row.get("attack") == "PGD:steps=50" and row["decoder"] in ("logistic", "head"):
            robust = {**row, "quantity": "robust_accuracy"}
            rows += [robust, {**robust, "attack": "AutoAttack", "value": 0.1 * row["value"]}]
    return rows


def test_a_panel_an_attack_of_the_models_that_were_attacked_and_fgsm_first(attacked_rows, write_records):
    panels = attack_panels(read_study_records(write_records(attacked_rows)))
    assert [panel.title for panel in panels] == ["FGSM", "PGD:steps=50", "AutoAttack"]
    for panel in panels:
        assert {each.decoder for each in panel.lines} == {"logistic", "head"}
        assert len(panel.lines) == 6 * 2 + 2


def test_the_worst_case_comes_last_and_decoders_are_named_where_there_are_several(study_rows, write_records):
    robust = [{**row, "quantity": "robust_accuracy"} for row in study_rows if row.get("attack") == "PGD:steps=50"]
    panels = attack_panels(read_study_records(write_records(study_rows + robust)))
    assert [panel.title for panel in panels] == [
        f"{attack}, {decoder} decoder"
        for attack in ("FGSM", "PGD:steps=50", "worst case")
        for decoder in ("Gaussian-mixture", "logistic")
    ]


def test_an_attack_has_its_robust_accuracies_over_seeds_and_the_clean_one_of_its_images(attacked_rows, write_records):
    def values(**wanted):
        return [row["value"] for row in attacked_rows if wanted.items() <= row.items()]

    cells = {"beta": 0.01, "noise": True, "decoder": "logistic"}
    attacked = attack_panels(read_study_records(write_records(attacked_rows)))[-1]
    clean, _, last = line(attacked, "β = 0.01, noise").points
    robust = values(**cells, attack="AutoAttack", quantity="robust_accuracy", epsilon=8 / 255)
    assert (last.x, last.mean, last.cells) == (8 / 255, pytest.approx(sum(robust) / 2), 2)
    unattacked = values(**cells, quantity="clean_accuracy")
    assert (clean.x, clean.low, clean.high) == (0.0, min(unattacked), max(unattacked))


def test_clean_accuracy_on_other_images_is_no_point_of_an_attack(attacked_rows, write_records):
    rows = [{**row, "num_images": 50} if row["quantity"] == "robust_accuracy" else row for row in attacked_rows]
    attacked = attack_panels(read_study_records(write_records(rows)))[-1]
    assert {line.points[0].x for line in attacked.lines} == {4 / 255}


def test_no_line_lies_on_the_frame_of_the_generalization_figure(study_rows, write_records, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("ibrobust.reporting.figures.generalization.save", lambda figure, *_: drawn.append(figure))
    # Nearly the same error everywhere, far from 0.
    rows = [
        {**row, "value": 0.2 + row["value"] / 50} if row["quantity"] == "test_accuracy" else row for row in study_rows
    ]
    draw_generalization(read_study_records(write_records(rows)), tmp_path)
    for axes in drawn[0].axes:
        heights = [height for line in axes.lines for height in line.get_ydata()]
        assert (axes.get_ylim()[0], max(heights) < 0.97 * axes.get_ylim()[1]) == (0.0, True)


def test_a_decoder_of_one_cell_is_no_mean_of_other_cells(study_rows, write_records, tmp_path, monkeypatch):
    notes = []
    legend = "ibrobust.reporting.figures.generalization.legend_below"
    monkeypatch.setattr(legend, lambda figure, entries, note: notes.append(note))
    again = [
        {**row, "cell": f"{row['cell']}-again", "decoder": "svm"}
        for row in study_rows
        if row["quantity"] == "test_accuracy" and row["decoder"] == "resfc" and row["seed"] == 0
    ]
    draw_generalization(read_study_records(write_records([*study_rows, *again])), tmp_path)
    assert "mean of 1 to 2 seeds" in notes[0]


@pytest.mark.parametrize(("attack", "norm", "is_drawn"), [("CW", "L2", False), ("transfer:my-L2-model", "Linf", True)])
def test_the_norm_of_an_attack_decides_not_its_name(attacked_rows, write_records, attack, norm, is_drawn):
    rows = [
        {**row, "attack": attack, "norm": norm} if row.get("attack") == "AutoAttack" else row for row in attacked_rows
    ]
    panels = attack_panels(read_study_records(write_records(rows)))
    assert (attack in [panel.title for panel in panels]) is is_drawn


def test_a_line_of_an_attack_is_of_one_number_of_images(attacked_rows, write_records):
    robust = [row for row in attacked_rows if row.get("attack") == "AutoAttack"]
    fewer = [{**row, "num_images": 7, "value": 0.99} for row in robust]
    fewer += [{**row, "epsilon": 1 / 255} for row in fewer]
    clean = [{**row, "num_images": 7, "value": 0.99} for row in attacked_rows if row["quantity"] == "clean_accuracy"]
    before = attack_panels(read_study_records(write_records(attacked_rows)))[-1]
    after = attack_panels(read_study_records(write_records([*clean, *attacked_rows, *fewer])))[-1]
    assert after == before


def _with_a_seed_on_few_images(rows, attack):
    """Some rows, those of seed 1 under an attack on 50 images, with an accuracy of 0.99."""
    changed = []
    for row in rows:
        few = row["seed"] == 1 and (row.get("attack") == attack or row["quantity"] == "clean_accuracy")
        value = row["value"] if row["quantity"].endswith("share") else 0.99
        changed.append({**row, "num_images": 50, "value": value} if few else row)
    return changed


@pytest.mark.parametrize("attack", ["FGSM", "worst case"])
def test_a_mean_is_over_the_seeds_on_the_most_images_of_the_line(
    study_rows, write_records, attack, tmp_path, monkeypatch
):
    records = read_study_records(write_records(_with_a_seed_on_few_images(study_rows, attack)))
    lines = fgsm_lines(records) if attack == "FGSM" else robust_lines(records)[attack]
    assert {point.cells for line in lines for point in line.points if point.x} == {1}
    assert {line.images for line in lines} == {1000 if attack == "FGSM" else 500}


def test_upper_bounds_are_marked_in_the_figure_of_attacks(attacked_rows, write_records, tmp_path, monkeypatch):
    attacked = [row for row in attacked_rows if row.get("attack") == "AutoAttack"]
    attacked[0]["upper_bound"] = True
    drawn = []
    monkeypatch.setattr("ibrobust.reporting.figures.accuracy.save", lambda figure, *_: drawn.append(figure))
    draw_attacks(read_study_records(write_records(attacked_rows)), tmp_path)
    marks = [text for axes in drawn[0].axes for text in axes.texts if text.get_text() == "≤"]
    assert len(marks) == 1
    mean = sum(
        row["value"]
        for row in attacked
        if all(row[key] == attacked[0][key] for key in ("beta", "noise", "dropconnect", "decoder", "epsilon"))
    )
    assert marks[0].xy == pytest.approx((255 * attacked[0]["epsilon"], mean / 2))


def test_upper_bounds_are_marked_in_the_figure_of_fgsm(study_rows, write_records, tmp_path, monkeypatch):
    swept = [row for row in study_rows if (row["quantity"], row.get("attack")) == ("accuracy", "FGSM")]
    swept[3]["upper_bound"] = True
    drawn = []
    monkeypatch.setattr("ibrobust.reporting.figures.accuracy.save", lambda figure, *_: drawn.append(figure))
    draw_fgsm(read_study_records(write_records(study_rows)), tmp_path)
    marks = [text for axes in drawn[0].axes for text in axes.texts if text.get_text() == "≤"]
    assert [mark.xy[0] for mark in marks] == pytest.approx([255 * swept[3]["epsilon"]])


def test_the_generalisation_error_is_the_test_error(study_rows, records):
    errors = {(setting.label(), decoder): point for (setting, decoder), point in generalization_errors(records).items()}
    accuracies = [
        row["value"]
        for row in study_rows
        if (row["beta"], row["noise"], row["quantity"], row.get("decoder")) == (0.1, False, "test_accuracy", "resfc")
    ]
    found = errors["β = 0.1, no noise", "resfc"]
    assert (found.low, found.high) == (pytest.approx(1 - max(accuracies)), pytest.approx(1 - min(accuracies)))


def test_beta_zero_stands_apart_from_a_logarithmic_axis():
    places = beta_places([0.0, 0.01, 0.1])
    assert (places[0.01], places[0.1]) == (-2.0, -1.0)
    assert places[0.0] < -2.2
    assert len(beta_places([0.0])) == 1


def test_a_trajectory_has_the_epochs_that_all_of_its_seeds_have(study_rows, write_records):
    rows = [row for row in study_rows if not (row["seed"] == 1 and row.get("epoch") == 2)]
    for found in trajectories(read_study_records(write_records(rows))):
        assert found.epochs == (1, 5, 10)
        assert [point.cells for point in found.entropy] == [2, 2, 2]


def test_the_noise_floor_is_averaged_as_its_trajectory_is(study_rows, write_records):
    rows = [{**row, "value": -12.0 - row["seed"]} if row["quantity"] == "noise_floor" else row for row in study_rows]
    assert {each.floor for each in trajectories(read_study_records(write_records(rows)))} == {-12.5}


def test_trajectories_fade_towards_the_first_epoch():
    assert fading(1) == [1.0]
    opacity = fading(4)
    assert opacity == sorted(opacity)
    assert (opacity[0], opacity[-1]) == (pytest.approx(0.2), 1.0)


# How it looks


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def turned(colour: str) -> str:
    """The colour after a page's filter in the dark: invert(.89) hue-rotate(180deg), as the CSS standard has them."""
    red, green, blue = (0.89 - 0.78 * int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    rows = ((-0.574, 1.43, 0.144), (0.426, 0.43, 0.144), (0.426, 1.43, -0.856))
    channels = (a * red + b * green + c * blue for a, b, c in rows)
    return "#" + "".join(f"{round(255 * min(max(channel, 0.0), 1.0)):02x}" for channel in channels)


@pytest.mark.parametrize(("dark", "background"), [(False, 1.0), (True, luminance("#1d2127"))])
@pytest.mark.parametrize("count", [2, 6, 10])
def test_betas_are_told_apart_in_grey_and_from_the_background(count, dark, background):
    colours = beta_colours([float(n) for n in range(count)]).values()
    tones = [luminance(turned(colour) if dark else colour) for colour in colours]
    assert tones == sorted(tones, reverse=dark)
    assert len(set(tones)) == count
    for tone in tones:
        assert (max(tone, background) + 0.05) / (min(tone, background) + 0.05) > 2.0


@pytest.mark.parametrize("others", [(0.0001, 0.01, 0.03), (0.0001, 0.01, 0.03, 0.3), (0.0,), ()])
def test_a_beta_has_its_colour_in_every_figure(others):
    alone = beta_colours([0.1])
    assert beta_colours(sorted([0.1, *others]))[0.1] == alone[0.1]


def test_adversarial_training_is_not_taken_for_cross_entropy():
    plain, adversarial = (
        Setting(objective, None, None, 0.0, 0.0, 16, 20, "") for objective in ("cross_entropy", "adversarial")
    )
    assert baseline_colour(adversarial) != baseline_colour(plain)
    assert turned(baseline_colour(adversarial)) != turned(baseline_colour(plain))
    assert looks([plain, adversarial], [])[adversarial].colour == baseline_colour(adversarial)


def test_a_model_from_elsewhere_has_its_name_alone_and_is_not_taken_for_cross_entropy():
    plain, mine = (
        Setting(name, None, None, 0.0, 0.0, 16, 20, other)
        for name, other in (("cross_entropy", ""), (UNKNOWN, "my net"))
    )
    assert mine.label() == "my net"
    assert replace(mine, decoder="head").label() == "my net (head)"
    assert turned(looks([plain, mine], [])[mine].colour) != turned(looks([plain, mine], [])[plain].colour)


def test_no_two_lines_of_a_panel_look_alike(records):
    settings = list(dict.fromkeys(each.setting for panel in fgsm_panels(records) for each in panel.lines))
    found = looks(settings, sorted({s.beta for s in settings if s.beta is not None}))
    without_colour = {(look.marker, look.dashes) for look in found.values()}
    # The baselines of the second panel have another decoder, and its name.
    assert len(without_colour) == len(settings) == 16
    assert {look.colour for s, look in found.items() if s.beta is None} == {"#000000"}
    assert {look.dashes for s, look in found.items() if s.dropconnect} == {"--"}


def test_no_two_baselines_look_alike():
    settings = [
        Setting(name, None, None, 0.0, 0.0, width, 20, "") for width in range(8) for name in ("a", "adversarial")
    ]
    for count in (8, 16):
        found = looks(settings[:count], [])
        assert len({(look.colour, look.dashes, look.marker) for look in found.values()}) == count


def test_no_two_baselines_of_the_generalization_figure_look_alike(study_rows, write_records, tmp_path, monkeypatch):
    legends = []
    legend = "ibrobust.reporting.figures.generalization.legend_below"
    monkeypatch.setattr(legend, lambda figure, entries, note: legends.append(entries))
    plain = [row for row in study_rows if row["quantity"] == "test_accuracy"]
    more = [
        {**row, "cell": f"{row['cell']}-{name}", "objective": name}
        for row in plain
        for name in ("a", "b", "c")
        if row["objective"] == "cross_entropy"
    ]
    draw_generalization(read_study_records(write_records([*plain, *more])), tmp_path)
    lines = [entry for entry in legends[0].values() if entry.get_marker() == "None"]
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == len(lines) == 8


def test_a_baseline_of_other_epochs_is_in_the_generalization_figure(study_rows, write_records, tmp_path, monkeypatch):
    legends = []
    legend = "ibrobust.reporting.figures.generalization.legend_below"
    monkeypatch.setattr(legend, lambda figure, entries, note: legends.append(list(entries)))
    plain = [row for row in study_rows if row["quantity"] == "test_accuracy"]
    longer = [
        {**row, "cell": f"{row['cell']}-longer", "epochs": 1000} for row in plain if row["objective"] == "cross_entropy"
    ]
    draw_generalization(read_study_records(write_records([*plain, *longer])), tmp_path)
    assert any("cross-entropy" in name and "epochs 1000" in name for name in legends[0]), legends[0]


def test_labels_do_not_overlap():
    assert spread([0.5, 0.48, 0.1], gap=0.1) == pytest.approx([0.58, 0.48, 0.1])
    low = spread([1.0, 1.0, 0.99], gap=0.1)
    assert sorted(low) == pytest.approx([0.8, 0.9, 1.0])


# The files


def test_every_figure_is_written_as_png_and_svg_of_print_width(tmp_path, study_rows, write_records):
    from PIL import Image

    paths = draw_study_figures(write_records(study_rows), tmp_path / "figures", list(FIGURES))
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")]
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                # The attacks' four panels stand in pairs across the page, the others' one or two in a column.
                wanted = TEXT_WIDTH if path.stem == "attacks" else COLUMN_WIDTH
                assert image.width / image.info["dpi"][0] == pytest.approx(wanted, abs=0.01)
        else:
            assert path.read_text().rstrip().endswith("</svg>")


def test_another_process_draws_the_same_bytes(tmp_path, study_rows, write_records):
    records = write_records(study_rows)
    here = draw_study_figures(records, tmp_path / "here", list(FIGURES))
    code = (
        "import sys, pathlib as p; from ibrobust.reporting.figures.draw import *; "
        "draw_study_figures(p.Path(sys.argv[1]), p.Path(sys.argv[2]), list(FIGURES)); "
        "assert 'torch' not in sys.modules, 'figures from records need no torch'"
    )
    subprocess.run([sys.executable, "-c", code, str(records), str(tmp_path / "there")], check=True)
    for path in here:
        other = tmp_path / "there" / path.name
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest(), path.name


def test_matplotlib_is_left_as_it_was(tmp_path, records):
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_fgsm(records, tmp_path)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("share", "marks"), [(0.37, True), (0.0, False)])
def test_the_mark_of_a_masked_model_is_in_the_picture(tmp_path, study_rows, write_records, share, marks):
    rows = [row for row in study_rows if row["beta"] == 0.3 and row.get("decoder") == "gaussian_mixture"]
    rows = [
        {**row, "value": share} if row["quantity"] == "zero_gradient_share" else row for row in rows if row["noise"]
    ]
    (_, path) = draw_study_figures(write_records(rows), tmp_path, ["fgsm"])
    # matplotlib draws letters as paths, and writes every text in a comment beside them.
    texts = re.findall("<!-- (.*?) -->", path.read_text())
    assert ("† 37.0%" in texts) is marks
    assert ("† gradient vanished" in texts) is marks


def _baseline(width: int, epochs: int = 20) -> Line:
    setting = Setting("adversarial", None, None, None, None, width, epochs, "")
    return Line(setting, "head", (make_point(8 / 255, [0.3]),))


def test_baselines_of_two_widths_have_two_names():
    (panel,) = arrange([_baseline(16), _baseline(32)])
    assert [line.setting.label() for line in panel.lines] == [
        "adversarial training, width 16",
        "adversarial training, width 32",
    ]


def test_a_baseline_whose_width_no_panel_has_is_in_a_panel_of_its_own():
    setting = Setting("knn_ib", 0.1, True, None, None, 16, 20, "")
    model = Line(setting, "logistic", (make_point(8 / 255, [0.1]),))
    first, second = arrange([model, _baseline(16), _baseline(32)])
    assert [line.setting.width for line in first.lines] == [16, 16]
    assert [line.setting.width for line in second.lines] == [32]


def test_the_only_baseline_of_its_kind_is_beside_models_of_other_epochs_and_says_so():
    plain = Setting("cross_entropy", None, None, None, None, 16, 20, "")
    settings = (Setting("knn_ib", 0.1, True, None, None, 16, 20, ""), plain)
    model, baseline = (Line(setting, "logistic", (make_point(8 / 255, [0.1]),)) for setting in settings)
    (panel,) = arrange([model, baseline, _baseline(16, epochs=40)])
    names = ["cross-entropy", "adversarial training, epochs 40 (head)"]
    assert [line.setting.label() for line in panel.lines[1:]] == names
    reference = Line(replace(plain, objective="", width=None, epochs=None, other="Wong2020"), "-", model.points)
    (panel,) = arrange([model, reference])
    assert "None" not in panel.lines[1].setting.label()


@pytest.mark.parametrize("name", FIGURES)
def test_baselines_alone_are_drawn_or_missed_in_one_sentence(tmp_path, study_rows, write_records, name):
    baselines = write_records([row for row in study_rows if row["beta"] is None])
    if name == "generalization":
        with pytest.raises(IbrobustError, match="needs records of the test accuracy of a model with a beta"):
            draw_study_figures(baselines, tmp_path, [name])
    else:
        assert draw_study_figures(baselines, tmp_path, [name])


def test_one_beta_one_epsilon_and_one_epoch_are_enough(tmp_path, study_rows, write_records):
    rows = [
        row
        for row in study_rows
        if row["beta"] == 0.0 and row.get("epoch", 1) == 1 and row.get("epsilon", 8 / 255) == 8 / 255
    ]
    assert len(draw_study_figures(write_records(rows), tmp_path, list(FIGURES))) == 2 * len(FIGURES)


def test_three_panels_stand_in_a_row_across_the_page():
    with study_style() as new:
        figure, places = grid_of_axes(new, 3)
        assert figure.get_figwidth() == TEXT_WIDTH
        assert [(place.left, place.top, place.bottom) for place in places] == [
            (True, True, True),
            (False, True, True),
            (False, True, True),
        ]


def test_a_figure_that_does_not_exist_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(IbrobustError, match="Unknown figure 'fgms': choose from fgsm"):
        draw_study_figures(tmp_path / "missing.csv", tmp_path, ["fgms"])


def test_a_figure_without_its_records_keeps_no_other_from_being_drawn(tmp_path, study_rows, write_records):
    records = write_records([row for row in study_rows if row.get("attack") != "FGSM"])
    with pytest.raises(IbrobustError, match="fgsm figure needs records of an FGSM sweep"):
        draw_study_figures(records, tmp_path / "figures", ["fgsm", "generalization"])
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"generalization.png", "generalization.svg"}
    told: list[IbrobustError] = []
    paths = draw_study_figures(records, tmp_path / "again", ["fgsm", "generalization"], on_missing=told.append)
    assert [path.name for path in paths] == ["generalization.png", "generalization.svg"]
    assert ["fgsm figure needs records of an FGSM sweep" in str(error) for error in told] == [True]


def test_attacks_in_l2_alone_give_no_figure_and_it_says_which_attack_is_missing(tmp_path, study_rows, write_records):
    rows = [
        {**row, "attack": "CW", "norm": "L2", "quantity": "robust_accuracy"}
        for row in study_rows
        if row.get("attack") == "PGD:steps=50"
    ]
    with pytest.raises(IbrobustError, match="an attack in L-infinity other than the FGSM sweep: add one"):
        draw_study_figures(write_records(rows), tmp_path, ["attacks"])


def test_a_loss_that_is_not_a_number_is_read(study_rows, write_records):
    assert math.isnan(read_study_records(write_records([{**study_rows[0], "value": math.nan}]))[0].value)
