"""Which recipes fit which images."""

from __future__ import annotations

import pytest
import torch

from ibrobust.data import Dataset
from ibrobust.errors import IbrobustError
from ibrobust.training.build import check_fit, refuse_unused
from ibrobust.training.recipe import Recipe


def images_of(*counts: int) -> Dataset:
    """Black images, so many of each class."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    half = (torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels)
    return Dataset.of(half, train=half, name="black")


def knn(**fields) -> Recipe:
    return Recipe.parse({"num_neighbors": 3, "batch_size": 20, **fields})


@pytest.mark.parametrize("objective", ["knn_ib", "soft_ib"])
def test_a_memory_and_a_batch_may_hold_copies_which_are_not_neighbours(objective):
    check_fit(knn(objective=objective, memory_size=500), images_of(150, 8))


def test_a_class_with_too_few_images_for_the_neighbours_is_refused():
    with pytest.raises(IbrobustError, match="class '1' of 'black' has 3 training images, too few for 3 neighbours"):
        check_fit(knn(memory_size=0, balanced_batches=False), images_of(150, 3))


def test_too_few_images_of_a_class_among_batches_that_are_not_balanced_are_refused():
    plain = {"memory_size": 100, "balanced_batches": False}
    with pytest.raises(IbrobustError, match="memory of 100 has about 3 images of the class '1'.*balanced_batches to t"):
        check_fit(knn(**plain), images_of(970, 30))
    check_fit(knn(**plain), images_of(960, 40))
    check_fit(knn(**{**plain, "balanced_batches": True}), images_of(970, 30))
    with pytest.raises(IbrobustError, match="batch of 20 has about 2 images of the class '1'.*raise the batch size"):
        check_fit(knn(balanced_batches=False, memory_size=0), images_of(90, 10))


@pytest.mark.parametrize(
    ("fields", "counts", "message"),
    [
        ({"memory_size": 100, "neighbor_ratio": 39.6}, (500, 500), None),  # 119 of 119 others
        (
            {"memory_size": 100, "neighbor_ratio": 40.0},
            (500, 500),
            "120 neighbours.*119 other images: lower neighbor",
        ),
        ({"memory_size": 500, "neighbor_ratio": 40.0}, (50, 50), "120 neighbours.*99 other images: lower neighbor_r"),
        ({"memory_size": 500, "neighbor_ratio": 9.0, "first_neighbors": 20}, (50, 50), "180 neighbours"),
        ({"objective": "dib", "num_neighbors": 20}, (50, 50), "20 neighbours.*19 other images: lower num_neighbors"),
    ],
)
def test_more_neighbours_for_h_of_z_than_there_are_images_are_refused(fields, counts, message):
    if message is None:
        check_fit(knn(**fields), images_of(*counts))
    else:
        with pytest.raises(IbrobustError, match=message):
            check_fit(knn(**fields), images_of(*counts))


def test_dib_needs_neighbours_in_every_class_for_h_of_z_given_y_alone():
    recipe = knn(objective="dib", batch_size=125)
    data = images_of(*[5] * 100)
    check_fit(recipe, data)
    with pytest.raises(IbrobustError, match="batch of 125 has 1 images of each of the 100 classes"):
        check_fit(recipe.model_copy(update={"conditional": True}), data)


def test_a_balanced_batch_with_copies_is_refused_if_the_objective_cannot_tell_them():
    with pytest.raises(IbrobustError, match="lower the batch size to 16 or less"):
        check_fit(knn(objective="dib"), images_of(150, 8))
    check_fit(knn(objective="knn_ib"), images_of(150, 8))
    check_fit(knn(objective="cross_entropy"), images_of(150, 8))


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
        ({"soft_share": 0.0, "neighbor_sharpness": 3.0}, "neighbor_sharpness without soft_share, so 3.0 would have no"),
        ({"soft_share": 0.0, "class_sharpness": 0.0}, "class_sharpness without soft_share"),
        ({"soft_share": 0.5, "class_sharpness": 0.0}, None),
        ({"objective": "soft_ib", "class_sharpness": 0.0}, None),
        ({"neighbor_fall": 0.1}, "neighbor_fall without first_neighbors.*leave it out, or set first_neighbors"),
        ({"neighbor_fall": 0.1, "first_neighbors": 99}, None),
        ({"resfc_units": 64}, "resfc_units without the decoder resfc"),
        ({"resfc_units": 64, "decoders": ("logistic", "resfc")}, None),
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
