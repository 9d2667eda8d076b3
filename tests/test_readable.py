"""What Python shows of a result: one line, a table, and the same table in a notebook."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

import ibrobust
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.audit.report import Check
from ibrobust.evaluation.audit.robustness import Claim, Kept
from ibrobust.evaluation.pass_counter import Cost
from ibrobust.evaluation.worst_case_attack.result import StageRecord
from ibrobust.integrations.robustbench.run_benchmark import BenchmarkResult
from ibrobust.readable import Readable, percent

RIGHT, LEFT = (True, True, True, False), (True, False, False, False)
SWEEP = ibrobust.SweepResult((2 / 255, 0.1), (2, 1), 3, 1, 0, 4)
ATTACK = AttackResult("PGD:steps=5", "Linf", 8 / 255, RIGHT, LEFT, 0, 0)
STAGES = (StageRecord("clean", 4, 0, Cost(4, 0), Cost(0, 0)), StageRecord("targets", 3, 2, Cost(9, 9), Cost(0, 0)))
WORST = ibrobust.WorstCaseResult(
    "L2", 0.5, RIGHT, LEFT, ("", "targets", "targets", ""), STAGES, (), False, 0, torch.zeros(4, 3, 1, 1)
)
CHECK = Check("determinism", 0.25, "at most <0.1>", False, "It draws.", "somebody")
AUDIT = ibrobust.AuditReport(
    robustness="partly real",
    gradient="honest",
    claim=Claim(0.5, "FGSM", 2),
    kept=Kept(0.5, 0.1, 0.9),
    upper_bound=False,
    checks=(CHECK,),
    epsilon=8 / 255,
    n=4,
    clean_correct=3,
    fgsm_correct=2,
    worst_case_correct=1,
    cost=Cost(1, 1),
    quick=True,
    seed=0,
)
BENCHMARK = BenchmarkResult("m", "head", "digits", "Linf", 8 / 255, 4, 3, 1, 0, 128, (), "CPU", {}, "5a")
DIGITS = ibrobust.load_dataset("digits")

SHOWN = [
    (SWEEP, "75.0% of 4 images clean, FGSM leaves 50.0% at 2/255, 25.0% at 0.1 (25.5/255); 25.0% have a zero gradient"),
    (ATTACK, "75.0% of 4 images clean, PGD:steps=5 at Linf 8/255 leaves 25.0%"),
    (WORST, "75.0% of 4 images clean, the worst case at L2 0.5 leaves 25.0%"),
    (AUDIT, f"{AUDIT.headline}. {AUDIT.detail}"),
    (BENCHMARK, "m: 75.0% of 4 images of digits clean, AutoAttack at Linf 8/255 leaves 25.0%"),
    (DIGITS, "digits, 1,437 training and 360 test images of 3 x 32 x 32, 10 classes"),
    (DIGITS.test, "360 images of 3 x 32 x 32"),
]


def test_an_audit_of_a_model_that_fgsm_leaves_nothing_of_has_no_claim_to_test():
    detail = replace(AUDIT, claim=Claim(0.0, "FGSM", 0), fgsm_correct=0, worst_case_correct=0).detail
    assert detail.startswith("The worst case leaves 0 of 4 images, and so does FGSM: there is no claim to test;")


class Cells(HTMLParser):
    """The text of a page, without its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.found.append(data)


@pytest.mark.parametrize(("result", "sentence"), SHOWN, ids=[type(result).__name__ for result, _ in SHOWN])
def test_a_result_is_one_line(result, sentence):
    assert repr(result) == f"<{type(result).__name__}: {sentence}>"


def test_an_upper_bound_is_called_so():
    assert "leaves at most 25.0%" in repr(replace(WORST, warnings=("The gradient misleads.",)))


def test_a_sweep_of_many_epsilons_stays_one_line():
    many = replace(SWEEP, epsilons=tuple(n / 255 for n in range(50)), correct=(1,) * 50)
    assert repr(many).endswith("25.0% at 3/255, ...; 25.0% have a zero gradient>")
    assert len(str(many).splitlines()) == 52


def test_the_table_is_printed_in_aligned_columns():
    assert str(WORST).splitlines()[1:] == [
        "  stage    attacked  broken",
        "  clean    4         0",
        "  targets  3         2",
    ]


@pytest.mark.parametrize("result", [result for result, _ in SHOWN], ids=lambda result: type(result).__name__)
def test_a_notebook_shows_the_same_as_a_terminal(result):
    shown = " ".join(Cells(result._repr_html_()).found)
    assert shown.split() == str(result).split()


def test_html_in_a_value_is_text():
    assert "at most &lt;0.1&gt;" in AUDIT._repr_html_()


def test_a_card_names_model_recipe_data_and_accuracy():
    text = str(ibrobust.model_card("knn_ib-digits"))
    for expected in ("knn_ib-digits", "Recipe(objective='knn_ib'", "1,437 training", "logistic", "%"):
        assert expected in text
    assert "sha256" not in text


@pytest.mark.parametrize(
    "recipe",
    [
        ibrobust.Recipe(),
        ibrobust.Recipe.preset("paper"),
        ibrobust.Recipe(objective="soft_ib", neighbor_sharpness=3.0, soft_share=0.0),
        ibrobust.Recipe(neighbor_sharpness=3.0, soft_share=0.75),
        ibrobust.Recipe(objective="of_a_plugin", objective_options={"margin": 2.0}),
    ],
    ids=["default", "paper", "soft", "sharp", "plugin"],
)
def test_a_recipe_is_the_call_that_makes_it(recipe):
    assert eval(repr(recipe), {"Recipe": ibrobust.Recipe}) == recipe
    assert str(recipe) == repr(recipe)


def test_a_recipe_names_only_what_differs():
    assert repr(ibrobust.Recipe(width=8)) == "Recipe(objective='knn_ib', width=8)"


def test_a_class_that_says_its_sentence_has_no_empty_table():
    class Plain(Readable):
        def _sentence(self) -> str:
            return "nothing"

    assert (str(Plain()), Plain()._repr_html_()) == ("nothing", "<p>nothing</p>")


def test_a_half_is_rounded_up_as_by_hand():
    """0.3165 is 31.65%, but the nearest binary number is below it."""
    assert [percent(share) for share in (0.3165, 0.5, 1 / 3, 0.0)] == ["31.7%", "50.0%", "33.3%", "0.0%"]


@pytest.mark.parametrize(
    ("share", "text", "as_bound"),
    [
        (0.0, "0.0%", "0.0%"),
        (4 / 10_000, "<0.1%", "0.1%"),
        (0.1974, "19.7%", "19.8%"),
        (0.19, "19.0%", "19.0%"),
        ((0.1 + 0.2) / 3, "10.0%", "10.0%"),
        (16 / 256, "6.3%", "6.3%"),
        (0.9996, ">99.9%", "100.0%"),
        (1.0, "100.0%", "100.0%"),
    ],
)
def test_rounding_makes_no_claim_that_the_count_refutes(share, text, as_bound):
    """0.0 would say that no image is left, and 19.7 as an upper bound would lie below what was found."""
    assert (percent(share), percent(share, is_bound=True)) == (text, as_bound)


MANY = (True,) * 1974 + (False,) * 8026


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (replace(ATTACK, clean_correct=MANY, attacked_correct=MANY, flags=("a warning",)), "leaves at most 19.8%"),
        (replace(SWEEP, correct=(1974, 4), total=10_000, flags=("a warning",)), "at most 19.8% at 2/255, 0.1% at 0.1"),
        (replace(AUDIT, upper_bound=True, n=256, worst_case_correct=16), ", at most 6.3% in the worst case at"),
        (replace(AUDIT, upper_bound=True, n=256, worst_case_correct=16), "The worst case leaves at most 16 of 256"),
        (replace(AUDIT, upper_bound=True, worst_case_correct=0), ", 0.0% in the worst case at"),
        (replace(BENCHMARK, flags=("a warning",)), "leaves at most 25.0%; AutoAttack warns: a warning"),
    ],
)
def test_an_upper_bound_is_called_so_in_one_line(result, sentence):
    assert sentence in repr(result)


def test_a_benchmark_with_a_warning_is_an_upper_bound_in_its_record():
    assert [replace(BENCHMARK, flags=flags).to_dict()["upper_bound"] for flags in ((), ("a warning",))] == [False, True]
