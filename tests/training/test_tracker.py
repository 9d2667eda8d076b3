"""Trackers beside the metrics file: one that cannot be used is told before any data is read."""

from __future__ import annotations

import importlib.util

import pytest

import ibrobust
from ibrobust.objectives import list_objectives, objective_class
from ibrobust.training.build import unused_fields
from ibrobust.training.quick_checks import OWN_OBJECTIVES, TRACKERS, check_tracker, without_effect

RECIPE = ibrobust.Recipe(dataset="no-such-folder")


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow"])
def test_a_missing_one_is_told_before_data_is_read(nothing_installed, name):
    with pytest.raises(ibrobust.IbrobustError, match=rf"tracker '{name}' is not installed: pip install {name}\."):
        ibrobust.train(RECIPE, log_with=name)


def test_an_unknown_one_is_told_before_data_is_read():
    with pytest.raises(ibrobust.IbrobustError, match="Unknown tracker 'notes'"):
        ibrobust.train(RECIPE, log_with="notes")


def test_the_names_are_accelerates():
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert sorted(map(str, LOGGER_TYPE_TO_CLASS)) == sorted(TRACKERS)


def test_the_names_of_objectives_are_those_that_ibrobust_registers():
    kinds = {name: objective_class(name).__module__ for name in list_objectives()}
    assert {name for name, module in kinds.items() if module.startswith("ibrobust.")} == set(OWN_OBJECTIVES)


def test_tensorboard_may_be_tensorboardx(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "tensorboardX" else None)
    check_tracker("tensorboard")


@pytest.mark.parametrize("name", OWN_OBJECTIVES)
def test_the_settings_without_effect_are_those_of_the_class(name):
    assert set(without_effect(name)) == unused_fields(objective_class(name)) & {"beta", "noise"}
