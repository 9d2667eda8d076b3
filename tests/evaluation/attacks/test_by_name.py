"""Attacks as people write them."""

from __future__ import annotations

import pytest
import torch
from pydantic.fields import FieldInfo

import ibrobust
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import NamedAttack
from ibrobust.evaluation.attacks.by_name import create_attack, read_attack
from ibrobust.evaluation.attacks.own_attacks import FGSM, OWN_ATTACKS, PGD, AutoAttack, WorstCase
from ibrobust.evaluation.attacks.text_form import list_attacks
from ibrobust.evaluation.attacks.torchattacks_classes import NUMBERS


def fields(name: str) -> dict[str, FieldInfo]:
    kind = type(create_attack(name))
    assert issubclass(kind, NamedAttack)
    return dict(kind.model_fields)


def defaults(name: str) -> dict[str, object]:
    return {key: field.default for key, field in fields(name).items()}


def test_name_alone() -> None:
    assert read_attack("FGSM") == FGSM()


def test_options_take_the_kind_of_their_default() -> None:
    spec = read_attack("PGD: steps=50, random_start=TRUE, alpha=2/255, loss=margin")
    assert dict(spec.options) == {"steps": 50, "random_start": True, "alpha": 2 / 255, "loss": "margin"}


def test_a_label_reads_back_as_the_same_attack() -> None:
    spec = read_attack("PGD:random_start=false,steps=50")
    assert spec.label == "PGD:random_start=false,steps=50"
    assert read_attack(spec.label) == spec


def test_a_whole_number_may_stand_for_a_decimal_one() -> None:
    assert dict(read_attack("MIFGSM:decay=1").options) == {"decay": 1.0}


def test_case_of_the_name_does_not_matter() -> None:
    assert read_attack("autoattack").name == "AutoAttack"


@pytest.mark.parametrize(
    ("text", "norm"), [("APGD", "Linf"), ("APGD:norm=L2", "L2"), ("CW", "L2"), ("JSMA", "L0"), ("PGD", "Linf")]
)
def test_norm(text: str, norm: str) -> None:
    assert read_attack(text).norm == norm


def test_torchattacks_classes_are_known() -> None:
    assert {"FGSM", "PGD", "APGD", "Square", "CW", "AutoAttack", "TPGD"} <= set(list_attacks())
    assert "MultiAttack" not in list_attacks()
    assert defaults("BIM") == {"alpha": 2 / 255, "steps": 10}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PDG", "did you mean PGD"),
        ("wrost_case", "did you mean worst_case\\? Choose FGSM, PGD, AutoAttack, worst_case, a"),
        ("", "Unknown attack ''"),
        ("torchattacks:CW", "is one of torchattacks': write CW"),
        ("torchattacks:cv", "Unknown attack 'cv': did you mean"),
        ("PGD:step=5", "did you mean steps\\? It takes"),
        ("PGD:steps", "'steps' has no value: write steps=VALUE"),
        ("PGD:steps=many", "like 10 is needed"),
        ("PGD:steps=2.5", "like 10 is needed"),
        ("PGD:steps=0", "at least 1"),
        ("PGD:random_start=1", "like true is needed"),
        ("PGD:loss=hinge", ": choose cross_entropy or margin or dlr"),
        ("PGD:steps=5,steps=6", "twice"),
        ("BIM:eps=0.1", "the radii come from `epsilons`"),
        ("AutoAttack:version=plus", ": choose standard or rand"),
        ("VANILA:steps=3", ": it takes none"),
        ("APGD:seed=3", "no option 'seed'"),
        ("worst_case:surrogate=3", "surrogate is 3: a name is needed"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(IbrobustError, match=message):
        read_attack(text)


@pytest.mark.parametrize("name", list_attacks())
def test_no_number_is_taken_that_the_attack_cannot_work_with(name: str) -> None:
    """NaN and infinity mean nothing, -2 is below every option's range, and 0 means something to some of them only."""
    own = name in [kind.__name__ for kind in OWN_ATTACKS]
    for key, field in fields(name).items():
        default = field.default
        is_number = isinstance(default, int | float) or "float" in str(field.annotation)
        if isinstance(default, bool) or not is_number:
            continue
        assert own or key in NUMBERS, f"what may {name}'s {key} be?"
        if default is not None:
            assert create_attack(name, **{key: default}).options == {key: default}
        for value in ("nan", "inf", "-inf", "-2"):
            with pytest.raises(IbrobustError, match=f"{name}'s option {key} is "):
                read_attack(f"{name}:{key}={value}")


@pytest.mark.parametrize(
    "text",
    [
        "PGD:alpha=0",
        "PGD:alpha=-1/255",
        "BIM:alpha=0.0",
        "SINIFGSM:m=0",
        "VMIFGSM:N=0",
        "SPSA:delta=0",
        "CW:c=0",
        "CW:lr=0",
        "GN:std=0",
        "JSMA:theta=0",
        "JSMA:gamma=0",
        "Square:p_init=0",
        "Square:p_init=1.5",
        "APGD:rho=1.5",
        "FAB:eta=0.9",
        "FAB:beta=0",
        "SparseFool:lam=0",
        "PIFGSM:amplification=0",
        "PGDL2:eps_for_division=1",
        "OnePixel:inf_batch=0",
        "DIFGSM:diversity_prob=1.5",
        "DIFGSM:resize_rate=0",
        "Jitter:scale=0",
        "AutoAttack:n_iter=0",
        "AutoAttack:n_queries=0",
    ],
)
def test_a_value_that_cannot_attack_is_refused(text: str) -> None:
    with pytest.raises(IbrobustError, match="is needed"):
        read_attack(text)


@pytest.mark.parametrize(
    "text",
    ["MIFGSM:decay=0", "CW:kappa=0", "Jitter:std=0", "JSMA:theta=-1", "PGDRS:noise_sd=0", "DeepFool:overshoot=0"],
)
def test_a_value_at_the_end_of_its_range_is_taken(text: str) -> None:
    assert read_attack(text).options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FAB:norm=L1", "norm=Linf or norm=L2"),
        ("EADL1:max_iterations=5", "at least 10 or abort_early=false"),
        ("PGDRS:batch_max=3", "at least that"),
        ("PGDRSL2:noise_type=pink", "choose guassian or uniform"),
        ("Pixle:x_dimensions=3", "no option 'x_dimensions'"),
    ],
)
def test_options_that_torchattacks_cannot_run_are_refused(text: str, message: str) -> None:
    with pytest.raises(IbrobustError, match=message):
        read_attack(text)


def test_an_attack_made_in_code_is_held_to_the_same() -> None:
    with pytest.raises(IbrobustError, match="alpha is nan"):
        PGD(alpha=float("nan"))
    with pytest.raises(IbrobustError, match="no option 'step'"):
        PGD(step=3)
    with pytest.raises(IbrobustError, match="Unknown attack 'PDG'"):
        create_attack("PDG")


@pytest.mark.parametrize(
    ("text", "attack"),
    [
        ("FGSM:loss=margin", FGSM(loss="margin")),
        ("PGD:steps=50,random_start=false", PGD(steps=50, random_start=False)),
        ("AutoAttack:norm=L2", AutoAttack(norm="L2")),
        ("worst_case", WorstCase()),
        ("cw:c=2,steps=5", create_attack("CW", steps=5, c=2)),
    ],
)
def test_text_and_object_are_the_same_attack(text: str, attack: NamedAttack) -> None:
    assert read_attack(text) == attack
    assert read_attack(text).label == attack.label
    assert read_attack(attack.label) == attack


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("PGD:steps=10", "PGD:steps=10"),
        ("PGD:random_start=TRUE,alpha=2/255", "PGD:alpha=0.00784313725490196,random_start=true"),
        ("CW:c=2", "CW:c=2"),
        ("CW:c=2.0", "CW:c=2.0"),
        ("MIFGSM:decay=1", "MIFGSM:decay=1.0"),
        ("Worst_Case:escalate=true", "WorstCase:escalate=true"),
    ],
)
def test_labels_are_those_of_earlier_results(text: str, label: str) -> None:
    """They name results and fix the random numbers, so a default that is written stays written."""
    assert read_attack(text).label == label


def test_an_attack_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        PGD().steps = 3


def test_a_class_is_the_attack_with_its_defaults() -> None:
    assert read_attack(PGD) == PGD()


@pytest.mark.parametrize("text", ["AutoAttack:precision=", "PGD:loss=", "PGD:=3", "XYZ:", "PGD:alpha="])
def test_a_sentence_has_single_spaces(text: str) -> None:
    with pytest.raises(IbrobustError) as caught:
        read_attack(text)
    assert "  " not in str(caught.value)


@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_an_attack_of_another_package_without_a_name_is_refused_without_one(library):
    package = pytest.importorskip(library)
    model = ibrobust.load_model("knn_ib-digits")
    if library == "foolbox":
        given = package.attacks.LinfPGD().repeat(3)
    else:
        given = package.MultiAttack([package.FGSM(model), package.BIM(model)])
    with pytest.raises(IbrobustError, match="itself: give a function that calls it, attack"):
        read_attack(given)


@pytest.mark.parametrize(
    ("library", "name", "written"),
    [("torchattacks", "CW", "'CW'"), ("foolbox.attacks", "LInfFMNAttack", "'foolbox:LInf")],
)
def test_an_attack_of_another_package_itself_is_refused(library, name, written):
    attack = getattr(pytest.importorskip(library), name)
    model = ibrobust.load_model("knn_ib-digits")
    for given in (attack, attack(model) if library == "torchattacks" else attack()):
        with pytest.raises(IbrobustError, match=f"give its name with its options as text, such as {written}"):
            ibrobust.run_attacks(model, torch.rand(2, 3, 32, 32), [0, 1], attacks=given, epsilons=0.1)
