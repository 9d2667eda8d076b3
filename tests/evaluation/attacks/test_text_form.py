"""Names and options of attacks, as they are known without torch, against the attacks themselves."""

from __future__ import annotations

import pytest
import torchattacks

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.by_name import check_attack
from ibrobust.evaluation.attacks.own_attacks import OWN_ATTACKS
from ibrobust.evaluation.attacks.text_form import OWN_NAMES, torchattacks_names


def test_the_names_are_those_of_the_attacks():
    assert tuple(own.__name__ for own in OWN_ATTACKS) == OWN_NAMES


def test_the_names_of_torchattacks_are_those_that_it_exports():
    assert torchattacks_names() == [name for name in torchattacks.__all__ if name not in ("MultiAttack", "LGV")]


@pytest.mark.parametrize(
    "text",
    ["PGD", "pgd:steps=50,loss=margin", "worst_case:norm=L2", "CW:c=2", "transfer:a", "foolbox:LinfPGD", "json:dumps"],
)
def test_what_may_exist_is_accepted(text):
    check_attack(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PDG", "Unknown attack 'PDG': did you mean PGD"),
        ("pgd:steps=x", "PGD's option steps is 'x'"),
        ("PGD:norm=L3", "PGD has no norm 'L3': did you mean L2"),
        ("transfer:a:steps=0", "Transfer's option steps is 0"),
        ("transfer:a:surrogate=b", "gives a surrogate twice"),
        ("worst_case:surrogate=3", "The surrogate is 3: a name is needed"),
        ("PGD:step=3", "has no option 'step': did you mean steps"),
        ("PGD:steps", "has no value"),
        ("PGD:eps=0.1", "the radii come from"),
        ("no_such_module:darken", "needs the Python module 'no_such_module'"),
    ],
)
def test_what_cannot_exist_is_refused(text, said):
    with pytest.raises(IbrobustError, match=said):
        check_attack(text)
