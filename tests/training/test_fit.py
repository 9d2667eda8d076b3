"""Which recipes fit which images."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from ibrobust.data import Dataset, load_dataset
from ibrobust.data.batches import balanced_batches
from ibrobust.errors import IbrobustError
from ibrobust.objectives.memory import LatentMemory
from ibrobust.training.build import build_modules, check_fit, refuse_unused
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
    with pytest.raises(
        IbrobustError, match="memory of 100 have about 3 images of the class '1'.*balanced_batches to t"
    ):
        check_fit(knn(**plain), images_of(975, 25))
    check_fit(knn(**plain), images_of(970, 30))  # 3.6 in the batch and the memory together
    check_fit(knn(**{**plain, "balanced_batches": True}), images_of(975, 25))
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
        (
            {"memory_size": 500, "neighbor_ratio": 40.0},
            (50, 50),
            "120 neighbours.*99 other images: lower neighbor_ratio .now 40., or add images",  # no memory has more
        ),
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


@pytest.mark.parametrize("memory", [1, 6, 15, 22, 30, 37, 44, 59])
@pytest.mark.parametrize("batch", [10, 15, 20])
@pytest.mark.parametrize("most", [4, 9])
def test_a_memory_is_refused_if_a_class_would_have_too_few_neighbours(memory, batch, most):
    """As counted in a memory that was filled with balanced batches of 4 classes."""
    data = images_of(60, 60, 60, 60)
    kept, counts = LatentMemory(memory, 1), []
    generator = torch.Generator().manual_seed(0)
    for rows in [rows for _ in range(5) for rows in balanced_batches(data.train.labels, batch, generator)]:
        labels = data.train.labels[rows]
        if int(kept.labels.min()) >= 0:
            counts.append(int(torch.cat([labels, kept.labels]).bincount(minlength=4).min()))
        kept.remember(torch.zeros(batch, 1), labels, rows)
    recipe = knn(batch_size=batch, memory_size=memory, num_neighbors=most)
    if min(counts) <= most:
        with pytest.raises(IbrobustError, match=f"have . images of each .* too few for {most} .* raise memory_size to"):
            check_fit(recipe, data)
    elif batch % 4 == 0:  # otherwise the classes with one image more are drawn at random
        check_fit(recipe, data)


@pytest.mark.parametrize(
    ("batch", "most", "wanted"),
    [(15, 15, 225), (125, 50, 407), (100, 50, 410)],  # 1 + 15 of 10 classes; 12 + 36 + 32 * 12 / 125; 10 + 41
)
def test_the_memory_that_is_asked_for_is_the_smallest_that_suffices(batch, most, wanted):
    recipe, data = knn(batch_size=batch, num_neighbors=most, neighbor_ratio=1.0, memory_size=164), images_of(*[90] * 10)
    with pytest.raises(IbrobustError, match=f"raise memory_size to {wanted} or more"):
        check_fit(recipe, data)
    with pytest.raises(IbrobustError, match="too few"):
        check_fit(recipe.model_copy(update={"memory_size": wanted - 1}), data)
    check_fit(recipe.model_copy(update={"memory_size": wanted}), data)


def test_the_batch_counts_beside_a_small_memory():
    check_fit(knn(batch_size=500, num_neighbors=10, memory_size=100), images_of(*[100] * 10))


def test_classes_without_training_images_need_no_neighbours():
    train, data = images_of(30, 30, 30).train, images_of(*[1] * 100)
    recipe = knn(memory_size=0, batch_size=12, neighbor_ratio=1.0, decoders=())
    check_fit(recipe, Dataset("black", data.class_names, train, data.test))


def test_a_balanced_batch_smaller_than_the_classes_is_refused_before_training():
    with pytest.raises(IbrobustError, match="batch of 3 cannot hold an image of each of the 4 classes"):
        check_fit(Recipe(objective="soft_ib", batch_size=3), images_of(9, 9, 9, 9))


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


@pytest.mark.parametrize(("decoder", "count"), [("logistic", 0), ("gaussian_mixture", 1), ("resfc", 0)])
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


def test_a_constant_channel_is_only_centred():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images[:, 1] = 51
    data = Dataset.of((images, [0, 1] * 3), train=(images, [0, 1] * 3))
    encoder, _ = build_modules(Recipe(objective="cross_entropy", width=1, latent_dim=2), data)
    first, _, last = (images / 255).transpose(0, 1).flatten(1).std(dim=1, correction=0)
    expected = torch.stack([first, torch.tensor(1.0), last])
    torch.testing.assert_close(encoder.std.flatten(), expected)
    assert float(encoder.mean.flatten()[1]) == pytest.approx(0.2)
    assert bool(encoder(images / 255).isfinite().all())


def test_images_of_one_value_are_refused():
    images = torch.full((6, 3, 8, 8), 51, dtype=torch.uint8)
    data = Dataset.of((images, [0, 1] * 3), train=(images, [0, 1] * 3))
    with pytest.raises(IbrobustError, match="standard deviation 0"):
        build_modules(Recipe(objective="cross_entropy", width=1, latent_dim=2), data)


def test_how_training_images_are_added_to_a_file_or_folder(tmp_path):
    file, folder = tmp_path / "d.npz", tmp_path / "d"
    images = np.arange(4 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 4, 3)
    np.savez(
        file, images=images, labels=np.array([0, 1, 0, 1]), train_images=images, train_labels=np.array([0, 1, 0, 1])
    )
    for index, image in enumerate(images):
        picture = folder / "test" / str(index % 2) / f"{index}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(picture)
    cut = tmp_path / "cut.npz"
    np.savez(cut, images=images, labels=np.array([0, 1, 0, 1]))
    said = {
        str(cut): "'cut' has no training images: add train_images and train_labels to the file",
        str(folder): "'d' has no training images: add a folder train/<class>/*",
        f"{file}:train=none": "'d' has no training images: leave out train=none",
    }
    for source, message in said.items():
        with pytest.raises(IbrobustError, match=re.escape(message)):
            check_fit(Recipe(), load_dataset(source))
