"""Images and labels are taken in the forms that are documented, and refused in every other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.inputs import check_batch_size, check_images_and_labels, images_and_labels, unit_range
from ibrobust.evaluation.sweep import fgsm_sweep

IMAGES = torch.linspace(0, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
LABELS = torch.tensor([0, 1])
CPU = torch.empty(0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int32, torch.int64])
def test_floats_and_any_integers_are_taken(dtype: torch.dtype, label_dtype: torch.dtype) -> None:
    check_images_and_labels(IMAGES.to(dtype), LABELS.to(label_dtype))


def test_both_ends_of_the_range_are_in_it() -> None:
    check_images_and_labels(torch.zeros(2, 3, 4, 4), LABELS)
    check_images_and_labels(torch.ones(2, 3, 4, 4), LABELS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "1 of 2 images have pixels that are NaN"),
        (float("inf"), "to inf"),
        (-1e-6, "range from -1e-06"),
        (1.001, "normalisation"),
        (1 + 1.2e-7, r"to 1\.0000001: .*Clamp them with images.clamp\(0, 1\)"),
        (255.0, "to 255"),
    ],
)
def test_one_pixel_out_of_range_is_refused(value: float, message: str) -> None:
    images = IMAGES.clone()
    images[1, 2, 3, 3] = value
    with pytest.raises(IbrobustError, match=message):
        check_images_and_labels(images, LABELS)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], "shape"),
        (IMAGES[:0], "N > 0"),
        (IMAGES.long(), "dtype torch.int64"),
        (IMAGES.bool(), "dtype torch.bool"),
    ],
)
def test_images_of_another_form_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(IbrobustError, match=message):
        check_images_and_labels(images, LABELS[: len(images)])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.float(), "torch.float32"),
        (LABELS.bool(), "torch.bool"),
        (LABELS[:1], r"shape \(1,\)"),
        (LABELS[:, None], r"shape \(2, 1\)"),
        (torch.tensor([0, -1]), "counted from 0"),
    ],
)
def test_labels_of_another_form_are_refused(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(IbrobustError, match=message):
        check_images_and_labels(IMAGES, labels)


@pytest.mark.parametrize(
    ("images", "remedy"),
    [
        (load_dataset("digits"), "a Dataset, which holds images and labels: give its .test.images and .test.labels."),
        (load_dataset("digits").test, "a Split, which holds images and labels: give its .images and .labels."),
        (DataLoader(TensorDataset(IMAGES, LABELS)), "give the .images and .labels of ibrobust.Dataset.of(it).test."),
    ],
)
def test_a_data_set_in_the_place_of_images_is_refused(images, remedy) -> None:
    with pytest.raises(IbrobustError) as refused:
        fgsm_sweep(nn.Flatten(), images, LABELS, 0.1)
    assert str(refused.value).endswith(remedy)


def test_images_with_their_channels_last_are_told(plain_model) -> None:
    with pytest.raises(IbrobustError, match=r"\(1, 16, 16, 3\).*channels come second.*images.permute\(0, 3, 1, 2\)"):
        fgsm_sweep(plain_model.features, torch.rand(2, 16, 16, 3), LABELS, 0.1)


def test_a_name_in_the_place_of_a_model_is_told_how_to_load_it() -> None:
    with pytest.raises(IbrobustError, match=r"The model is a str: .*ibrobust.load_model\('knn_ib-digits'\)"):
        fgsm_sweep("knn_ib-digits", IMAGES, LABELS, 0.1)


@pytest.mark.parametrize("size", [0, -5, 2**31, 10**30])
def test_a_batch_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(IbrobustError, match=f"is {size}"):
        check_batch_size(size)


def test_the_largest_batch_size_is_taken() -> None:
    assert check_batch_size(2**31 - 1) == 2**31 - 1


def test_every_pixel_level_becomes_its_255th() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = torch.tensor([level / 255 for level in range(256)], dtype=torch.float64).float()
    assert torch.equal(unit_range(levels, CPU).flatten(), expected)


def test_arrays_of_any_memory_layout_are_taken() -> None:
    images, labels = IMAGES.flip(1).numpy().astype(">f4")[:, ::-1], LABELS.numpy().astype(">i8")
    found = images_and_labels(images, labels)
    assert torch.equal(found[0], IMAGES)
    assert torch.equal(found[1], LABELS)


def test_floats_stay_as_they_are() -> None:
    assert torch.equal(unit_range(IMAGES, CPU), IMAGES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_precision_are_brought_to_the_models(dtype, plain_model, test_data):
    images, labels = test_data[0][:20].to(dtype), test_data[1][:20]
    expected = fgsm_sweep(plain_model, images.float(), labels, [0.02])
    assert fgsm_sweep(plain_model, images, labels, [0.02]) == expected


def test_whole_numbers_of_0_and_1_are_no_pixels():
    with pytest.raises(IbrobustError, match="no value above 1 of 255: multiply them by 255"):
        images_and_labels(torch.eye(4, dtype=torch.uint8).view(1, 1, 4, 4), [0])
