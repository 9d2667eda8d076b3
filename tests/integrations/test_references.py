"""The models of other packages, as their names are known without importing them, against the packages."""

from __future__ import annotations

import sys

import pytest

from ibrobust.errors import IbrobustError
from ibrobust.integrations.references import check_reference, robustbench_models, timm_models
from ibrobust.integrations.robustbench.environment import imported_quietly
from ibrobust.integrations.robustbench.run_benchmark import find_zoo_model

with imported_quietly():
    import timm
    from robustbench.model_zoo import model_dicts
    from timm.models import _registry


def test_the_names_in_timm_are_those_that_it_registers():
    own = {name for name in timm.list_models() if _registry.model_entrypoint(name).__module__.startswith("timm.")}
    assert timm_models() == own | set(_registry._deprecated_models)


def test_the_names_in_robustbench_are_those_of_its_zoo():
    listings = [listing for of_set in model_dicts.values() for listing in of_set.values()]
    assert robustbench_models() == {name for listing in listings for name in listing}


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("timm:resnet51", "timm has no model 'resnet51': did you mean"),
        ("robustbench:Standart", "did you mean Standard"),
    ],
)
def test_what_does_not_exist_is_told_without_the_package(reference, said, monkeypatch):
    monkeypatch.delitem(sys.modules, reference.partition(":")[0])
    with pytest.raises(IbrobustError, match=said):
        check_reference(reference)


@pytest.mark.parametrize("reference", ["timm:resnet50.a1_in1k", "robustbench:cifar10/L2/Standard"])
def test_what_exists_is_accepted(reference, monkeypatch):
    monkeypatch.delitem(sys.modules, reference.partition(":")[0])
    check_reference(reference)


def test_a_zoo_model_that_does_not_exist_is_refused_by_its_full_name():
    with pytest.raises(IbrobustError, match="RobustBench has no model 'cifar10/L2/Standart': did you mean Standard"):
        find_zoo_model("cifar10/L2/Standart")
