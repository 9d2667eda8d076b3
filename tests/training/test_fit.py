"""Which recipes fit which images."""

from __future__ import annotations

import pytest
import torch

from ibrobust.data import Dataset, load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.training.build import check_fit, refuse_unused, with_memory_that_fits
from ibrobust.training.recipe import Recipe


def images_of(*counts: int) -> Dataset:
    """Black images, so many of each class."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    half = (torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels)
    return Dataset.of(half, train=half, name="black")


def knn(**fields) -> Recipe:
    return Recipe.parse({"num_neighbors": 3, "batch_size": 20, **fields})


@pytest.mark.parametrize("objective", ["knn_ib", "soft_ib"])
def test_a_memory_that_would_hold_an_image_twice_is_refused(objective):
    check_fit(knn(objective=objective, memory_size=180), images_of(100, 100))
    with pytest.raises(IbrobustError, match="hold an image twice.*lower memory_size to 180 or less"):
        check_fit(knn(objective=objective, memory_size=181), images_of(100, 100))


def test_a_memory_that_would_hold_an_image_of_a_small_class_twice_is_refused():
    with pytest.raises(IbrobustError, match="50 training images of the class '1'.*lower memory_size to 80 or less"):
        check_fit(knn(memory_size=100), images_of(150, 50))
    check_fit(knn(memory_size=100, balanced_batches=False), images_of(150, 50))


def test_a_class_with_too_few_images_for_the_neighbours_is_refused():
    with pytest.raises(IbrobustError, match="class '1' of 'black' has 3 training images, too few for 3 neighbours"):
        check_fit(knn(memory_size=0, balanced_batches=False), images_of(150, 3))


def test_a_batch_that_would_hold_an_image_twice_is_refused():
    with pytest.raises(IbrobustError, match="lower the batch size to 16 or less"):
        check_fit(knn(memory_size=0), images_of(150, 8))
    check_fit(Recipe(objective="cross_entropy", batch_size=20), images_of(150, 8))


def test_a_memory_that_is_not_given_is_as_large_as_the_images_allow():
    data, recipe = load_dataset("digits"), Recipe(dataset="digits")
    fitted = with_memory_that_fits(recipe, data)
    check_fit(fitted, data)
    assert fitted == recipe.model_copy(update={"memory_size": 1330 - 125})  # 133 images of the smallest class


def test_a_memory_that_is_given_is_not_changed():
    assert with_memory_that_fits(Recipe(memory_size=2000), load_dataset("digits")).memory_size == 2000


def test_a_memory_of_a_preset_counts_as_not_given():
    assert with_memory_that_fits(Recipe.preset("knn_w16"), load_dataset("digits")).memory_size == 1205


@pytest.mark.parametrize(("decoder", "count"), [("logistic", 0), ("gaussian_mixture", 1)])
def test_a_class_with_too_few_images_for_a_decoder_is_refused_before_training(decoder, count):
    data = images_of(30, 30, 2)
    train = images_of(30, 30, count).train
    with pytest.raises(IbrobustError, match=f"{decoder!r} needs .* of the class '2'.*leave {decoder!r} out"):
        check_fit(
            Recipe(objective="cross_entropy", batch_size=20, decoders=(decoder,)),
            Dataset("black", data.class_names, train, data.test),
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "cross_entropy", "num_neighbors": 3}, None),  # the default
        ({"objective": "cross_entropy", "epsilon": "8/255"}, "does not use epsilon.*choose adversarial"),
        ({"objective": "cross_entropy", "noise": False}, "does not use noise.*choose dib, knn_ib, soft_ib"),
        ({"objective": "soft_ib", "num_neighbors": 5}, "does not use num_neighbors"),
    ],
)
def test_a_field_that_the_objective_does_not_use_is_refused(fields, message):
    recipe = Recipe.parse(fields)
    if message is None:
        refuse_unused(recipe)
    else:
        with pytest.raises(IbrobustError, match=message):
            refuse_unused(recipe)


@pytest.mark.parametrize("change", [{}, {"seed": 1}])
def test_fields_that_were_not_given_may_be_unused(change, tmp_path):
    recipe = Recipe.preset("soft_w16").model_copy(update={"objective": "cross_entropy", **change})
    refuse_unused(recipe)
    recipe.to_yaml(tmp_path / "recipe.yaml")
    refuse_unused(Recipe.from_yaml(tmp_path / "recipe.yaml"))
