"""Studies and models that were registered from outside: they are measured on their own images, and never a training."""

from __future__ import annotations

import pytest
from torch import nn

from ibrobust.data import Dataset, load_dataset
from ibrobust.registry import ModelCard, list_models, model_card, register_model
from ibrobust.study import expand, run_study

SWEEP = {"sweep": {"eps": ["8/255"], "n_examples": 10}}


def linear(pixels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 10))


def register(name: str, data: Dataset, **options: object) -> ModelCard:
    pixels = data.test.images[0].numel()
    return register_model(
        name, linear(pixels), dataset=data, factory=linear, arguments={"pixels": pixels}, **options
    )


@pytest.mark.parametrize("is_of_this_name", [True, False])
def test_a_module_that_was_registered_with_a_recipe_is_no_training_of_it(make_study, is_of_this_name):
    study = make_study({"beta": [0.1]}, evaluations=SWEEP)
    (cell,) = expand(study)
    card = register(cell.model if is_of_this_name else "other", load_dataset(cell.recipe.dataset), recipe=cell.recipe)
    (state,) = run_study(study)
    if is_of_this_name:
        assert state.status == "failed"
        assert "was not trained by ibrobust" in state.error
    else:
        assert state.status == "done"
        assert model_card(cell.model).weights != card.weights
        assert model_card(cell.model).architecture is None
    assert list_models(cell.model) == [cell.model]
