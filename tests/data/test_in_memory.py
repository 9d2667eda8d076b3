"""Data sets that are given in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from ibrobust import Dataset
from ibrobust.data import Split
from ibrobust.errors import IbrobustError

PIXELS = torch.randint(0, 256, (6, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])

ONE_HOT = torch.eye(3, dtype=torch.int64)[LABELS]


class Pictures(TorchDataset):
    """Pictures of Pillow with their labels, as torchvision's data sets without a transform give them."""

    classes = ("ant", "bee", "cow")

    def __init__(self, mode: str = "RGB") -> None:
        self.mode = mode

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int):
        picture = Image.fromarray(PIXELS[index].permute(1, 2, 0).numpy())
        return picture.convert(self.mode), int(LABELS[index])


@pytest.mark.parametrize(
    "given",
    [
        (PIXELS, LABELS),
        (PIXELS.numpy(), LABELS.numpy()),
        (PIXELS.permute(0, 2, 3, 1).numpy(), LABELS.tolist()),
        (PIXELS.float() / 255, LABELS.to(torch.int32)),
        ((PIXELS / 255).half(), LABELS[:, None]),
        ([image for image in PIXELS.numpy()], list(LABELS)),
        (PIXELS.flip(1).numpy()[:, ::-1], LABELS.flip(0).numpy()[::-1]),  # as from BGR to RGB
        ([image[::-1] for image in PIXELS.flip(1).numpy()], LABELS.tolist()),
        ((PIXELS.numpy() / 255).astype(">f4"), LABELS.numpy().astype(">i8")),
        TensorDataset(PIXELS / 255, LABELS),
        Pictures(),
        DataLoader(TensorDataset(PIXELS / 255, LABELS), batch_size=4),
        DataLoader(TensorDataset(PIXELS / 255, LABELS[:, None]), batch_size=4),
    ],
    ids=["tensors", "arrays", "NHWC", "floats", "halves", "lists", "reversed", "reversed list", "big-endian",
         "TensorDataset", "pictures", "DataLoader", "DataLoader of (B, 1)"],
)  # fmt: skip
def test_every_form_gives_the_same_images_and_labels(given):
    data = Dataset.of(given, name="mine")
    assert torch.equal(data.test.images, PIXELS)
    assert torch.equal(data.test.labels, LABELS)
    assert (data.name, len(data.train), data.source) == ("mine", 0, None)


@pytest.mark.parametrize("ordered", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_what_the_caller_does_with_the_images_afterwards_changes_nothing(ordered, kind):
    images, labels = PIXELS.clone() if ordered == "NCHW" else PIXELS.permute(0, 2, 3, 1).clone(), LABELS.clone()
    data = Dataset.of((images, labels) if kind == "tensors" else (images.numpy(), labels.numpy()))
    images.zero_()
    labels.zero_()
    assert torch.equal(data.test.images, PIXELS)
    assert torch.equal(data.test.labels, LABELS)


def test_training_and_test_images_of_other_classes_are_refused():
    class Fewer(Pictures):
        classes = ("ant", "cow")

    with pytest.raises(IbrobustError, match=r"training images \(ant, bee, cow\) are not those of the test images"):
        Dataset.of(Subset(Fewer(), range(4)), train=Pictures())
    assert Dataset.of((PIXELS, LABELS), train=Pictures()).class_names == Pictures.classes
    assert Dataset.of(Pictures(), train=(PIXELS, LABELS)).class_names == Pictures.classes


def test_class_names_are_those_of_the_torch_dataset_behind():
    loader = DataLoader(
        Subset(Pictures(), range(4)), batch_size=2, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True))
    )
    assert Dataset.of(Subset(Pictures(), range(4))).class_names == ("ant", "bee", "cow")
    assert Dataset.of(loader).class_names == ("ant", "bee", "cow")
    assert Dataset.of(Pictures(), class_names=["x", "y", "z"]).class_names == ("x", "y", "z")
    assert Dataset.of((PIXELS, LABELS)).class_names == ("0", "1", "2")


def test_grey_pictures_have_one_channel_and_transparency_is_dropped():
    assert Dataset.of(Pictures("L")).test.images.shape == (6, 1, 5, 4)
    assert torch.equal(Dataset.of(Pictures("RGBA")).test.images, PIXELS)


def test_training_images_and_the_fingerprint():
    data = Dataset.of((PIXELS, LABELS), train=(PIXELS[:4], LABELS[:4]))
    assert len(data.train) == 4
    split = Split(PIXELS, LABELS)
    assert data.fingerprint == Dataset("other", ("0", "1", "2"), Split(PIXELS[:4], LABELS[:4]), split).fingerprint


def test_floats_a_rounding_outside_the_range_are_at_its_ends():
    images = torch.tensor([-1e-8, 0.5, 1 + 1.2e-7, 1 + 9e-4]).view(2, 1, 1, 2)
    assert Dataset.of((images, [0, 1])).test.images.flatten().tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize(
    ("low", "high", "remedy"),
    [(0.0, 255.0, "divide them by 255"), (0.0, 1.01, "before any normalisation"), (-0.01, 1.0, "normalisation"),
     (-2.0, 2.5, "before any normalisation"), (0.0, float("inf"), "before any normalisation")],
)  # fmt: skip
def test_floats_outside_the_range_are_refused_with_the_remedy(low, high, remedy):
    images = torch.linspace(0, 1, 12).view(1, 1, 3, 4)
    images[0, 0, 0, 0], images[0, 0, 2, 3] = low, high
    with pytest.raises(IbrobustError, match=rf"not in \[0, 1\]: .*{remedy}"):
        Dataset.of((images, [0]))


def test_pixels_that_are_nan_are_refused_with_the_remedy():
    images = torch.full((2, 1, 3, 4), 0.5)
    images[1, 0, 2, 3] = float("nan")
    with pytest.raises(IbrobustError, match="have pixels that are NaN: replace them, or leave these images out"):
        Dataset.of((images, [0, 1]))


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (PIXELS, {}, "given as a Tensor: give a pair"),
        (Endless(), {}, "give a pair"),
        (DataLoader(TensorDataset(PIXELS)), {}, "list where a pair"),
        (TensorDataset(PIXELS, LABELS, LABELS), {}, "tuple where a pair"),
        (([PIXELS[0], PIXELS[1, :, :3]], [0, 1]), {}, r"several shapes \(\(3, 3, 4\) and \(3, 5, 4\)\)"),
        ((["a"], [0]), {}, "cannot be read as numbers"),
        ((np.array([None, None]), [0, 1]), {}, r"read as numbers \(can't convert [^()]*object_\): give an array"),
        (([np.full((5, 4), 256, np.uint16)] * 2, [0, 1]), {}, r"16 bits: give uint8, as \(images // 256\)\.astype"),
        ((PIXELS, ["a"] * 6), {}, "labels cannot be read as numbers"),
        *(
            (given, {}, r"labels have the shape \(6, 3\), not \(6,\): .* of one-hot labels labels.argmax\(1\)")
            for given in ((PIXELS, ONE_HOT), TensorDataset(PIXELS, ONE_HOT), DataLoader(TensorDataset(PIXELS, ONE_HOT)))
        ),
        ((PIXELS, LABELS), {"class_names": ["a", "b"]}, "labels from 0 to 2, but there are 2 classes"),
        ((PIXELS, LABELS), {"class_names": "abc", "train": (PIXELS[:, :1], LABELS)}, "bring all images to one size"),
    ],
)
def test_what_is_of_no_such_form(given, options, message):
    with pytest.raises(IbrobustError, match=message) as caught:
        Dataset.of(given, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS / 255, LABELS, "dtype float32, not .* in uint8: ibrobust.Dataset.of converts"),
        (PIXELS[0], LABELS[:3], "not .N, C, H, W."),
        (PIXELS, LABELS.int(), "dtype int32, not"),
        (PIXELS, LABELS[:5], r"shape \(5,\)"),
        (PIXELS, LABELS + 1, "labels from 1 to 3, but there are 3 classes: labels go from 0 to 2"),
        (PIXELS, LABELS - 1, "labels from -1 to 1, but classes are counted .* or give labels . 1 if -1 is the first"),
        (PIXELS[:0], LABELS[:0], "has no test images"),
    ],
)
def test_a_data_set_checks_its_tensors(images, labels, message):
    with pytest.raises(IbrobustError, match=message):
        Dataset("mine", ("a", "b", "c"), Split(PIXELS, LABELS), Split(images, labels))


def test_images_in_colour_have_no_single_channel():
    with pytest.raises(IbrobustError, match="in colour"):
        Dataset.of((PIXELS, LABELS)).in_channels(1)
    grey = Dataset.of((PIXELS[:, :1], LABELS))
    assert grey.in_channels(3).in_channels(1).fingerprint == grey.fingerprint
    assert np.array_equal(grey.in_channels(3).test.images[:, 2], PIXELS[:, 0])
