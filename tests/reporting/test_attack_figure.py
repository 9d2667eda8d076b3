"""The figure of `ibrobust attack`: one line per model and attack, axes that fit the epsilons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.sweep import SweepResult
from ibrobust.reporting.attack_lines import AttackedModel, Known, attack_lines
from ibrobust.reporting.figures.under_attack import attack_figure, save_attack_figure


def result(attack: str, epsilon: float, left: int, norm: str = "Linf") -> AttackResult:
    return AttackResult(attack, norm, epsilon, (True,) * 9 + (False,), (True,) * left + (False,) * (10 - left), 0, 0)


EPSILONS = (2 / 255, 8 / 255)
MODELS = [
    AttackedModel(
        "m",
        "head",
        tuple(result(attack, e, left) for attack, left in (("FGSM", 5), ("PGD", 3)) for e in EPSILONS),
        tuple(result("worst case of FGSM, PGD", e, 2) for e in EPSILONS),
    ),
    AttackedModel("plain", "head", tuple(result("FGSM", e, 1) for e in EPSILONS), known=Known(is_baseline=True)),
]
LINES = [line for model in MODELS for line in attack_lines(model)]


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_a_line_for_each_model_and_attack():
    (axes,) = attack_figure(LINES, dataset="digits").axes
    found = lines(axes)
    assert list(found) == ["m (head), FGSM", "m (head), PGD", "m (head), worst case", "plain (head), FGSM"]
    assert found["m (head), PGD"].get_xdata() == pytest.approx([0, 2, 8])
    assert found["m (head), PGD"].get_ydata() == pytest.approx([90, 30, 30])
    assert found["plain (head), FGSM"].get_color() == "#000000"


def test_upper_bounds_are_marked_where_they_are():
    flagged = replace(result("WorstCase", EPSILONS[1], 4), flags=("The gradient is exactly zero.",))
    model = AttackedModel("m", "head", (result("WorstCase", EPSILONS[0], 6), flagged))
    (axes,) = attack_figure(attack_lines(model), dataset="digits").axes
    assert list(lines(axes)) == ["m (head), ≤ upper bound"]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("≤", pytest.approx((8.0, 40.0)))]


def test_the_legend_has_every_name_as_it_is():
    names = ["_hidden", r"a$\q$b", "plain"]
    models = [AttackedModel(name, "head", (result("FGSM", 0.1, 3),)) for name in names]
    figure = attack_figure([line for model in models for line in attack_lines(model)], dataset=r"d$\q$")
    figure.canvas.draw()  # where wrong mathematics would fail
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [f"{name} (head)" for name in names]


def test_attacks_differ_in_style_and_models_in_colour():
    (axes,) = attack_figure(LINES, dataset="digits").axes
    of_model = [line for label, line in lines(axes).items() if label.startswith("m ")]
    assert len({line.get_linestyle() for line in of_model}) == 3
    assert len({line.get_color() for line in of_model}) == 1


@pytest.mark.parametrize(
    ("norm", "epsilon", "end"), [("Linf", 0.5 / 255, 0.5), ("Linf", 64 / 255, 64), ("L2", 1.5, 1.5)]
)
def test_the_axis_ends_at_the_largest_epsilon(norm, epsilon, end):
    model = AttackedModel("m", "head", (result("PGD", epsilon, 3, norm),))
    (axes,) = attack_figure(attack_lines(model), dataset="digits").axes
    low, high = axes.get_xlim()
    assert low == 0
    assert end < high < 1.1 * end


def test_a_norm_has_a_panel_of_its_own():
    model = AttackedModel("m", "head", (result("PGD", 0.1, 3), result("PGD:norm=L2", 0.1, 3, "L2")))
    panels = attack_figure(attack_lines(model), dataset="digits").axes
    assert [axes.get_xlabel() for axes in panels] == ["ε × 255", "ε (L2)"]


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_the_file_has_the_type_of_its_ending(tmp_path, name, start):
    save_attack_figure(LINES, tmp_path / name, dataset="digits")
    assert (tmp_path / name).read_bytes().startswith(start)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(IbrobustError, match="unknown format"):
        save_attack_figure(LINES, tmp_path / "a.bmp", dataset="digits")


def swept(name: str, *, is_baseline: bool = False, zero: int = 0) -> AttackedModel:
    sweep = SweepResult(EPSILONS, (50, 7), 90, zero, 0, 100)
    return AttackedModel(name, "head", (sweep,), known=Known(is_baseline=is_baseline))


def test_a_sweep_is_drawn_as_every_other_attack():
    (axes,) = attack_figure(attack_lines(swept("m")), dataset="digits").axes
    (line,) = axes.get_lines()
    assert line.get_label() == "m (head)"
    assert line.get_xdata() == pytest.approx([0, 2, 8])
    assert line.get_ydata() == pytest.approx([90, 50, 7])
    assert axes.get_ylabel() == "accuracy under FGSM (%)"


def test_a_model_that_was_not_attacked_is_dotted_and_its_label_says_so():
    (axes,) = attack_figure(attack_lines(swept("m", zero=37)), dataset="digits").axes
    (line,) = axes.get_lines()
    assert (line.get_label(), line.get_linestyle()) == ("m (head), 37.0% not attacked", ":")


def test_no_two_models_look_alike():
    models = [swept(f"m{n}") for n in range(40)] + [swept(f"plain{n}", is_baseline=True) for n in range(12)]
    lines = [line for model in models for line in attack_lines(model)]
    (axes,) = attack_figure(lines, dataset="digits").axes
    # By colour alone, as the markers of several attacks are those of the attack.
    assert len({line.get_color() for line in axes.get_lines()}) == len(models)
    assert axes.get_lines()[40].get_color() == "#000000"
