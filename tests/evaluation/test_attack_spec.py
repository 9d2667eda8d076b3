"""Attacks as people write them."""

from __future__ import annotations

import pytest

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attack_spec import AttackSpec, attack_names, attack_options, parse_attack


def test_name_alone() -> None:
    assert parse_attack("FGSM") == AttackSpec("FGSM")


def test_options_take_the_kind_of_their_default() -> None:
    spec = parse_attack("PGD: steps=50, random_start=TRUE, alpha=2/255, loss=margin")
    assert dict(spec.options) == {"steps": 50, "random_start": True, "alpha": 2 / 255, "loss": "margin"}


def test_a_label_reads_back_as_the_same_attack() -> None:
    spec = parse_attack("PGD:random_start=false,steps=50")
    assert spec.label == "PGD:random_start=false,steps=50"
    assert parse_attack(spec.label) == spec


def test_a_whole_number_may_stand_for_a_decimal_one() -> None:
    assert dict(parse_attack("MIFGSM:decay=1").options) == {"decay": 1.0}


def test_case_of_the_name_does_not_matter() -> None:
    assert parse_attack("autoattack").name == "AutoAttack"


@pytest.mark.parametrize(
    ("text", "norm"), [("APGD", "Linf"), ("APGD:norm=L2", "L2"), ("CW", "L2"), ("JSMA", "L0"), ("PGD", "Linf")]
)
def test_norm(text: str, norm: str) -> None:
    assert parse_attack(text).norm == norm


def test_torchattacks_classes_are_known() -> None:
    assert {"FGSM", "PGD", "APGD", "Square", "CW", "AutoAttack", "TPGD"} <= set(attack_names())
    assert "MultiAttack" not in attack_names()
    assert attack_options("BIM") == {"alpha": 2 / 255, "steps": 10}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PDG", "did you mean PGD"),
        ("", "There is no attack ''"),
        ("PGD:step=5", "did you mean steps\\? It takes"),
        ("PGD:steps", "has no option 'steps'|like 10"),
        ("PGD:steps=many", "like 10 is needed"),
        ("PGD:steps=2.5", "like 10 is needed"),
        ("PGD:steps=0", "at least 1"),
        ("PGD:random_start=1", "like true is needed"),
        ("PGD:loss=hinge", ": choose cross_entropy or margin or dlr"),
        ("PGD:steps=5,steps=6", "twice"),
        ("BIM:eps=0.1", "the list of epsilons"),
        ("AutoAttack:version=plus", ": choose standard or rand"),
        ("VANILA:steps=3", ": it takes none"),
        ("APGD:seed=3", "no option 'seed'"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(IbrobustError, match=message):
        parse_attack(text)
