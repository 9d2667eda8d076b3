from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.audit.report import AuditReport, Check
from ibrobust.evaluation.audit.robustness import Claim, Kept
from ibrobust.evaluation.pass_counter import Cost
from ibrobust.evaluation.sweep import SweepResult
from ibrobust.reporting.attack_lines import AttackedModel, Known, attack_lines
from ibrobust.reporting.attack_table import attack_table
from ibrobust.reporting.figures.under_attack import save_attack_figure
from ibrobust.reporting.marks import bound_sign
from ibrobust.reporting.tables import audit_table, failures_table
from ibrobust.verdicts import Audited, read_verdict


def known(verdict: str) -> Known:
    if not verdict:
        return Known()
    audited = Audited("head", 8 / 255, read_verdict(verdict))
    return Known(audited, (audited,))


def row(name: str, correct: tuple[int, ...], *, zero: int = 0, nonfinite: int = 0, verdict: str = ""):
    result = SweepResult((0.01, 8 / 255), correct, 90, zero, nonfinite, 100)
    return AttackedModel(name, "head", (result,), known=known(verdict))


def text(*models: AttackedModel, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(attack_table([line for model in models for line in attack_lines(model)], dataset="digits"))
    return console.file.getvalue()


def line(of: str, name: str) -> list[str]:
    found = next(line for line in of.splitlines() if f"{name} (head)" in line)
    return found.split("(head)")[1].replace("FGSM", "").split()


def test_cells_are_accuracies_in_per_cent():
    assert line(text(row("a", (50, 7))), "a") == ["90.0", "50.0", "7.0", "0.0%"]


def test_the_best_of_each_column_is_starred():
    printed = text(row("a", (50, 7)), row("b", (40, 9)))
    assert line(printed, "a") == ["*90.0", "*50.0", "7.0", "0.0%"]
    assert line(printed, "b") == ["*90.0", "40.0", "*9.0", "0.0%"]


def test_a_model_that_was_not_attacked_has_daggers_and_is_not_the_best():
    printed = text(row("masked", (88, 88), zero=2), row("honest", (40, 9)))
    assert line(printed, "masked") == ["*90.0", "88.0†", "88.0†", "2.0%"]
    assert line(printed, "honest") == ["*90.0", "*40.0", "*9.0", "0.0%"]
    assert "† no sign of robustness" in printed


def test_one_per_cent_of_zero_gradients_is_no_dagger():
    assert "†" not in text(row("a", (50, 7), zero=1))


def test_gradients_that_are_not_finite_have_a_column_where_there_are_some():
    assert "NaN or inf" not in text(row("a", (50, 7)))
    printed = text(row("a", (50, 7), nonfinite=5))
    assert line(printed, "a") == ["90.0", "50.0†", "7.0†", "0.0%", "5.0%"]


def test_an_audit_s_answer_is_the_first_column_with_its_epsilon():
    printed = text(
        row("a", (50, 7), verdict="partly real, honest"), row("b", (40, 9), verdict="sound"), row("c", (1, 1))
    )
    lines = [line.strip() for line in printed.splitlines() if "(head)" in line]
    starts = ["partly real, honest at 8/255 a", "older audit: sound at 8/255 b", "- c"]
    assert [" ".join(line.split("(head)")[0].split()) for line in lines] == starts


@pytest.mark.parametrize(
    "verdict", ["not real, honest", "real, misleading", "partly real, vanishing", "real, random", "masked"]
)
def test_a_model_that_its_audit_speaks_against_is_never_the_best_under_attack(verdict):
    printed = text(row("a", (80, 70), verdict=verdict), row("b", (40, 9), verdict="partly real, honest"))
    assert line(printed, "a") == ["*90.0", "80.0", "70.0", "0.0%"]
    assert line(printed, "b") == ["*90.0", "*40.0", "*9.0", "0.0%"]


def _best_at(model: AttackedModel, *others: AttackedModel) -> list[bool]:
    """Whether each epsilon of a model is starred beside others."""
    return [cell.startswith("*") for cell in line(text(model, *others), model.model)[1:3]]


def test_a_doubt_about_one_decoder_is_one_about_all():
    doubt = Audited("logistic", 8 / 255, read_verdict("not real, misleading"))
    honest, other = row("a", (80, 70), verdict="real, honest"), row("b", (40, 9), verdict="real, honest")
    assert _best_at(honest, other) == [True, True]
    own = Audited("head", 8 / 255, read_verdict("real, honest"))
    assert _best_at(replace(honest, known=Known(own, (own, doubt))), other) == [False, False]
    # An audit of the same decoder at the column's epsilon counts there instead.
    there = Audited("logistic", 0.01, read_verdict("real, honest"))
    assert _best_at(replace(honest, known=Known(own, (own, doubt, there))), other) == [True, False]


def test_a_model_without_an_audit_is_the_best_only_if_no_other_was_audited():
    unknown, other = row("a", (80, 70)), row("b", (40, 9))
    assert _best_at(unknown, other) == [True, True]
    audited = row("b", (40, 9), verdict="partly real, honest")
    assert _best_at(unknown, audited) == [False, False]
    assert _best_at(audited, unknown) == [True, True]
    assert "models without an audit are left out" in " ".join(text(unknown, audited).split())


@pytest.mark.parametrize(("verdict", "shown"), [("real, honest", "*50.0"), ("real, vanishing", "50.0")])
def test_a_gradient_that_is_not_honest_is_a_doubt_in_every_norm(verdict, shown):
    printed = text(*(under(name, ("CW", 0.5, left), norm="L2", verdict=verdict) for name, left in (("a", 5), ("b", 4))))
    assert line(printed, "a")[-1] == shown


def test_whether_the_robustness_is_real_says_nothing_about_another_norm():
    models = [under(name, ("CW", 0.5, left), norm="L2", verdict=said) for name, left, said in TWO]
    printed = text(*models)
    assert line(printed, "a")[-1] == "*50.0"
    assert "calls not real" not in " ".join(printed.split())


def test_the_caption_says_which_models_have_no_star_under_attack():
    models = [under(name, ("CW", 8 / 255, left), verdict=said) for name, left, said in TWO]
    printed = " ".join(text(*models).split())
    assert (
        "in the columns under attack, models that an audit calls not real or not honest and those without an audit are "
        "left out"
    ) in printed


@pytest.mark.parametrize("verdict", ["real, honest", "partly real, honest", "undecided, honest", "sound"])
def test_other_audited_models_may_be_the_best(verdict):
    printed = text(row("a", (80, 70), verdict=verdict), row("b", (40, 9)))
    assert line(printed, "a") == ["*90.0", "*80.0", "*70.0", "0.0%"]


def test_the_caption_says_how_many_images_of_which_data_and_how_sure():
    printed = " ".join(text(row("a", (50, 7))).split())
    assert "n = 100 test images of digits; 95% intervals within ±9.8 points" in printed


@pytest.mark.parametrize("zero", [0, 50])
def test_a_figure_is_written_whole_and_nothing_beside_it(tmp_path, zero):
    save_attack_figure(attack_lines(row("a", (50, 7), zero=zero)), tmp_path / "figure.png", dataset="digits")
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]
    assert (tmp_path / "figure.png").stat().st_size > 5000


def attacked(*pairs: str) -> AttackedModel:
    """An attack on images of which each is given as two bits: right before, right under the attack."""
    before, under = (tuple(pair[place] == "1" for pair in pairs) for place in (0, 1))
    return AttackedModel("a", "head", (AttackResult("PGD", "Linf", 8 / 255, before, under, 0, 0),))


def attack_text(model: AttackedModel) -> str:
    return " ".join(text(model, width=80).split())


def test_robust_accuracy_is_of_images_that_are_right_before_and_under_the_attack():
    assert "a (head) PGD 75.0 25.0" in attack_text(attacked("11", "10", "10", "00"))


def test_images_that_only_the_attack_makes_right_are_in_the_caption():
    assert "only the attack" not in attack_text(attacked("11", "10"))
    assert "images that only the attack makes right are not counted, up to 25.0 points" in attack_text(
        attacked("11", "10", "10", "01")
    )


def test_images_that_only_the_attack_makes_right_are_counted_at_the_epsilon_with_most():
    (none,), (some,) = attacked("11", "10", "00", "00").results, attacked("11", "10", "01", "00").results
    for results in ((replace(none, epsilon=0.01), some), (replace(some, epsilon=0.01), none)):
        (found,) = attack_lines(AttackedModel("a", "head", results))
        assert found.only_by_attack == 0.25


SENTENCE = "5 of 60 images are left by PGD and broken by the Square attack, which uses no gradient."


def audited(threshold: str) -> AuditReport:
    check = Check("gradient_matches_differences", 0.08, threshold, False, SENTENCE, "[Croce]")
    kept, claim = Kept(0.5, 0.4, 0.6), Claim(1.0, "FGSM", 60)
    return AuditReport(
        "undecided", "misleading", claim, kept, True, (check,), 8 / 255, 60, 60, 60, 30, Cost(1, 1), True, 0
    )


def test_a_check_takes_one_line_of_80_columns_and_its_confidence_is_in_the_caption():
    console = Console(file=io.StringIO(), width=80)
    report = audited("median at most 17 nats, with 95% confidence")
    console.print(audit_table(report, model="a", decoder="head", dataset="digits"))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "gradient_matches_differences 8% median at most 17 nats (95%) FAIL" in lines
    assert "(95%): with 95% confidence" in " ".join(console.file.getvalue().split())


def test_a_check_that_does_not_apply_is_a_dash_which_the_caption_explains():
    report = audited("at most 0.02")
    left = replace(report, checks=(replace(report.checks[0], passed=None),))
    console = Console(file=io.StringIO(), width=100)
    console.print(audit_table(left, model="a", decoder="head", dataset="digits"))
    assert "-: does not apply here" in " ".join(console.file.getvalue().split())


def test_what_failed_is_said_in_lines_as_wide_as_the_terminal():
    report = audited("at most 0.02")
    console = Console(file=io.StringIO(), width=100)
    console.print(failures_table(report))
    assert f" {SENTENCE}" in console.file.getvalue()
    assert "gradient_matches_differences; [Croce]" in console.file.getvalue()


def test_an_upper_bound_of_zero_is_the_value():
    flagged = replace(attacked("10", "10").results[0], flags=("The gradient is exactly zero at 2 of 2 images.",))
    assert "a (head) PGD 100.0 0.0" in attack_text(replace(attacked("10", "10"), results=(flagged,)))
    assert (bound_sign(0.0, is_bound=True), bound_sign(0.1, is_bound=True)) == ("", "≤")


def test_a_legend_explains_only_a_sign_that_is_there():
    lost = under("a", ("PGD", 8 / 255, 0))
    lost = replace(lost, results=tuple(replace(result, flags=("Weak.",)) for result in lost.results))
    assert "≤" not in text(lost)
    assert "Weak." not in text(lost)


def test_an_upper_bound_is_marked_and_its_reason_is_in_the_caption():
    plain = attacked("11", "10")
    (result,) = plain.results
    bound = replace(plain, results=(replace(result, flags=("The gradient is exactly zero at 2 of 2 images.",)),))
    assert "a (head) PGD 100.0 50.0" in attack_text(plain)
    assert "a (head) PGD 100.0 ≤50.0" in attack_text(bound)
    assert "≤ upper bound, other attacks may break more images: The gradient is exactly" in attack_text(bound)


def under(name: str, *left: tuple[str, float, int], norm: str = "Linf", verdict: str = "") -> AttackedModel:
    """A model under attacks given as (name, epsilon, images of ten that are left)."""
    results = tuple(
        AttackResult(attack, norm, epsilon, (True,) * 9 + (False,), (True,) * n + (False,) * (10 - n), 0, 0)
        for attack, epsilon, n in left
    )
    return AttackedModel(name, "head", results, known=known(verdict))


def header(of: str) -> list[str]:
    lines = of.splitlines()
    end = next(index for index, line in enumerate(lines) if "───" in line)
    return " ".join(lines[1:end]).split()


def test_a_sweep_and_other_attacks_have_the_same_columns():
    swept, attacked = text(row("a", (50, 7))), text(under("a", ("PGD", 0.01, 5), ("PGD", 8 / 255, 1)))
    assert [word for word in header(swept) if word not in ("zero", "gradient")] == header(attacked)
    assert swept.splitlines()[0].strip() == attacked.splitlines()[0].strip()
    assert line(attacked, "a") == ["PGD", "90.0", "50.0", "10.0"]


def test_an_answer_of_an_audit_stands_beside_every_attack():
    printed = text(under("a", ("PGD", 8 / 255, 5), ("CW", 8 / 255, 4), verdict="not real, honest"))
    assert printed.count("not real, honest at 8/255") == 1
    assert printed.count("a (head)") == 1
    assert "CW" in printed


TWO = (("a", 5, "not real, honest"), ("b", 4, ""))


def test_the_best_is_marked_under_each_attack():
    printed = text(
        under("a", ("PGD", 8 / 255, 5), ("CW", 8 / 255, 1)), under("b", ("PGD", 8 / 255, 4), ("CW", 8 / 255, 2))
    )
    rows = [line.split()[-1] for line in printed.splitlines() if " PGD " in line or " CW " in line]
    assert rows == ["*50.0", "10.0", "40.0", "*20.0"]
    assert "* best under this attack" in " ".join(printed.split())


def test_an_upper_bound_is_never_the_best():
    bounded = under("a", ("PGD", 8 / 255, 5))
    bounded = replace(bounded, results=tuple(replace(result, flags=("Weak.",)) for result in bounded.results))
    printed = text(bounded, under("b", ("PGD", 8 / 255, 4)))
    assert line(printed, "a")[-1] == "≤50.0"
    assert line(printed, "b")[-1] == "*40.0"


@pytest.mark.parametrize(("norm", "start"), [("Linf", "ε"), ("L2", "L2 ε")])
def test_the_norm_of_epsilon_is_in_the_header(norm, start):
    lines = text(under("a", ("CW", 0.5, 5), norm=norm)).splitlines()
    assert any(line.rstrip().endswith(f" {start}") for line in lines[1:3])


def test_an_attack_names_its_norm_if_the_table_has_several():
    printed = text(under("a", ("PGD", 0.5, 5)), under("b", ("CW", 0.5, 5), norm="L2"))
    assert "PGD (Linf)" in printed
    assert "CW (L2)" in printed


def test_four_epsilons_with_an_audit_fit_into_80_columns_without_a_cut():
    epsilons = tuple(n / 255 for n in (1, 2, 4, 8))
    sweep = SweepResult(epsilons, (800, 471, 300, 120), 851, 0, 0, 1000)
    models = [
        AttackedModel(name, "gaussian_mixture", (sweep,), known=known(verdict))
        for name, verdict in (("soft_ib-no_noise-w16-s0", "partly real, misleading"), ("plain", "sound"))
    ]
    printed = text(*models, width=80)
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    assert len([line for line in printed.splitlines() if line.split()[-5:-1] == ["*80.0", "*47.1", "*30.0", "*12.0"]])
