from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from ibrobust import function_names
from ibrobust.errors import IbrobustError
from ibrobust.objectives import (
    Loss,
    Objective,
    build_objective,
    list_objectives,
    objective_class,
    register_objective,
    registry,
)
from ibrobust.training.build import build_objective_of, refuse_unused
from ibrobust.training.recipe import Recipe


class Mine(Objective):
    def __init__(self, *, latent_dim: int, num_classes: int, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, latents: Tensor, labels: Tensor) -> Loss:
        return Loss(latents.square().mean(), {})


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_objectives", dict(registry._objectives))
    monkeypatch.setattr(registry, "_plugins_loaded", True)
    return


def with_plugins(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(registry, "_plugins_loaded", False)
    monkeypatch.setattr(function_names, "entry_points", lambda group: [p for p in points if p.group == group])


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group="ibrobust.objectives")


def test_the_objectives_of_the_paper_are_there():
    assert list_objectives() == ["adversarial", "ceb", "cross_entropy", "dib", "dvib", "knn_ib", "soft_ib"]


def test_registered_objective_is_built_with_its_options():
    register_objective("mine")(Mine)
    objective = build_objective("mine", latent_dim=3, num_classes=2, sharpness=4.0)
    assert isinstance(objective, Mine)
    assert objective.sharpness == 4.0
    assert "mine" in list_objectives()


def test_duplicate_name_is_refused():
    with pytest.raises(IbrobustError, match="The objective 'knn_ib' already exists"):
        register_objective("knn_ib")(Mine)


def test_unknown_name_offers_the_nearest():
    with pytest.raises(IbrobustError, match="Unknown objective 'knn-ib': did you mean knn_ib"):
        objective_class("knn-ib")


def test_unknown_option_is_refused():
    with pytest.raises(IbrobustError, match="'cross_entropy' does not take these options: .*'sharpness'"):
        build_objective("cross_entropy", latent_dim=3, num_classes=2, sharpness=4.0)


@pytest.mark.parametrize(
    "names", [{"options": ("beta", "sharpness")}, {"needs": {"beta": "sharpness"}}, {"needs": {"sharpness": "beta"}}]
)
def test_a_name_that_is_no_field_of_a_recipe_is_named_before_training(names):
    register_objective("mine")(type("Mine", (Mine,), names))
    for check in (refuse_unused, partial(build_objective_of, num_classes=10)):
        with pytest.raises(IbrobustError, match="'mine' names sharpness in its options or needs.*objective_options"):
            check(Recipe(objective="mine"))


@pytest.mark.parametrize("needs", [{"dropout": "head"}, {"head": "dropout"}])
def test_the_head_is_in_options_alone(needs):
    register_objective("mine")(type("Mine", (Mine,), {"options": ("head",), "needs": needs}))
    with pytest.raises(IbrobustError, match="'mine' names head in its options or needs, which is no field"):
        refuse_unused(Recipe(objective="mine", dropout=0.5))


def test_lazy_layers_are_refused_before_training():
    class Lazy(Mine):
        def __init__(self, *, latent_dim: int, num_classes: int) -> None:
            super().__init__(latent_dim=latent_dim, num_classes=num_classes)
            self.head = nn.LazyLinear(num_classes)

    register_objective("lazy")(Lazy)
    with pytest.raises(IbrobustError, match="'lazy' has lazy layers.*give each layer its size"):
        build_objective_of(Recipe(objective="lazy"), 10)


def test_plugin_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("a_plugin")
    module.Mine = Mine
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    with_plugins(monkeypatch, point("mine", "a_plugin:Mine"))
    assert objective_class("mine") is Mine


def test_plugin_that_raises_is_named_and_skipped(monkeypatch: pytest.MonkeyPatch):
    with_plugins(monkeypatch, point("broken", "no_such_plugin:Thing"))
    with pytest.warns(
        UserWarning, match=r"'broken' \(no_such_plugin:Thing\) was skipped: ModuleNotFoundError: No module named"
    ):
        names = list_objectives()
    assert "broken" not in names
    assert "knn_ib" in names


def test_plugin_that_is_no_objective_is_named_and_skipped(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("a_plugin")
    module.Thing = object
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    with_plugins(monkeypatch, point("thing", "a_plugin:Thing"))
    with pytest.warns(UserWarning, match="'thing' .* was skipped: it is no Objective"):
        assert "thing" not in list_objectives()


def test_loss_terms_are_detached_and_frozen():
    value = torch.ones((), requires_grad=True)
    loss = Loss(value * 2, {"H[Z]": value * 3})
    assert not loss.terms["H[Z]"].requires_grad
    with pytest.raises(TypeError):
        loss.terms["H[Z]"] = value
