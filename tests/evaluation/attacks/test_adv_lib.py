"""adv-lib's attacks by name: through functions with its signatures, and its own if it is installed."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch
from brightness import Brightness

import ibrobust
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.by_name import read_attack

IMAGES = torch.tensor([0.55, 0.45, 0.8]).view(3, 1, 1, 1).expand(3, 1, 2, 2).clone()
LABELS = torch.tensor([0, 1, 0])


def robust(attack, epsilons):
    results = ibrobust.run_attacks(Brightness(), IMAGES, LABELS, attacks=attack, epsilons=epsilons)
    return [(result.norm, result.robust_correct) for result in results]


@pytest.fixture
def calls(monkeypatch):
    """Functions with adv-lib's signatures; each notes its arguments."""
    seen = []

    def fmn(model, inputs, labels, norm: float, targeted=False, steps=10, starting_points=None):
        seen.append({"norm": norm, "steps": steps})
        return 0.999 - inputs  # just over the boundary

    def pgd_linf(model, inputs, labels, ε, targeted=False, steps=40, callback=None):
        seen.append({"ε": ε, "steps": steps})
        return inputs + ε * (1.0 - 2.0 * (inputs > 0.5).float())

    def sigma_zero(model, inputs, labels, num_steps=1000, targeted=False):
        return inputs

    package, module = ModuleType("adv_lib"), ModuleType("adv_lib.attacks")
    package.attacks = module
    for function in (fmn, pgd_linf, sigma_zero):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "adv_lib", package)
    monkeypatch.setitem(sys.modules, "adv_lib.attacks", module)
    return seen


def test_one_with_a_radius_gets_each_epsilon(calls):
    found = robust("adv_lib:pgd_linf:steps=3", [0.01, 0.1])
    assert calls == [{"ε": 0.01, "steps": 3}, {"ε": 0.1, "steps": 3}]
    assert found == [("Linf", (True, True, True)), ("Linf", (False, False, True))]


@pytest.mark.parametrize(("norm", "order"), [("Linf", math.inf), ("L2", 2.0), ("L1", 1.0)])
def test_one_that_searches_for_the_smallest_perturbation_runs_once(calls, norm, order):
    (first, second) = robust(f"adv_lib:fmn:norm={norm},steps=5", [0.05, 1.0])
    assert calls == [{"norm": order, "steps": 5}]
    assert first == (norm, (True, True, True))
    assert second[1][:2] == (False, False)


def test_its_label_reads_back(calls):
    assert read_attack("adv_lib:fmn:norm=L2,steps=5").label == "adv_lib:fmn:norm=L2,steps=5"


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("adv_lib:fnm", "adv-lib has no attack 'fnm': did you mean fmn"),
        ("adv_lib:fmn:step=3", "has no option 'step': it takes norm, steps."),
        ("adv_lib:fmn:norm=L3", "is not in Linf, L2 or L1"),
        ("adv_lib:sigma_zero", "is not in Linf, L2 or L1"),
        ("adv_lib:pgd_linf:eps=0.1", "the radii come from"),
    ],
)
def test_what_is_no_such_attack_is_one_sentence(calls, attack, message):
    with pytest.raises(IbrobustError, match=message):
        read_attack(attack)


def test_without_adv_lib_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "adv_lib", None)
    with pytest.raises(IbrobustError, match="needs adv-lib: pip install adv-lib"):
        read_attack("adv_lib:fmn")


@pytest.mark.parametrize("attack", ["adv_lib:df:norm=L2", "adv_lib:ddn:steps=100"])
def test_adv_lib_itself_finds_the_boundary_of_a_linear_model(attack):
    pytest.importorskip("adv_lib.attacks")
    (near, far) = robust(attack, [0.09, 0.12])
    assert near == ("L2", (True, True, True))
    assert far == ("L2", (False, False, True))
