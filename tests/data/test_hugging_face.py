"""Data sets of the Hub, through a stand-in for the package datasets."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError


class Image:
    """The type of a column of pictures, known by its name."""


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Value:
    pass


class Table:
    """Rows of a split, with a column of pictures and one of labels."""

    def __init__(self, features: dict[str, Any], columns: dict[str, list[Any]]) -> None:
        self.features, self.columns = features, columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        return self.columns[key] if isinstance(key, str) else {name: part[key] for name, part in self.columns.items()}


def pictures(count: int, *, size: int = 6, mode: str = "RGB") -> list[Picture.Image]:
    random = np.random.default_rng(count)
    shape = (count, size, size, 3) if mode == "RGB" else (count, size, size)
    return [Picture.fromarray(array) for array in random.integers(0, 256, shape, dtype=np.uint8)]


@pytest.fixture
def hub(monkeypatch):
    """What the stand-in gives by name, and the arguments that it was called with."""
    given: dict[str, dict[str, Table]] = {}
    calls: list[tuple[Any, ...]] = []
    module = ModuleType("datasets")

    def load(path: str, name: str | None = None, trust_remote_code: bool = True) -> dict[str, Table]:
        calls.append((path, name, trust_remote_code))
        if path not in given:
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub\nor cannot be accessed.")
        return given[path]

    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return given, calls


def test_images_classes_and_splits_are_found(hub):
    given, calls = hub
    features = {"image": Image(), "label": ClassLabel(["cat", "dog"])}
    shown = pictures(3)
    given["me/pets"] = {
        "train": Table(features, {"image": pictures(4), "label": [0, 1, 0, 1]}),
        "validation": Table(features, {"image": shown, "label": [1, 0, 1]}),
    }
    data = load_dataset("hf:me/pets")
    assert (data.name, data.class_names, data.source) == ("pets", ("cat", "dog"), "hf:me/pets")
    assert data.test.labels.tolist() == [1, 0, 1]
    assert data.test.images[2].permute(1, 2, 0).numpy().tolist() == np.array(shown[2]).tolist()
    assert len(data.train) == 4
    # A release that could run a script of the data set was told not to.
    assert calls == [("me/pets", None, False)]
    assert len(load_dataset("hf:me/pets:train=none").train) == 0


def test_the_test_images_are_no_training_images(hub):
    given, _ = hub
    features = {"image": Image(), "label": ClassLabel(["cat", "dog"])}
    half = Table(features, {"image": pictures(2), "label": [0, 1]})
    given["me/pets"] = {"train": half, "test": half}
    with pytest.raises(
        IbrobustError, match="training images 'test' of 'hf:me/pets' are test images as well.*train=non"
    ):
        load_dataset("hf:me/pets:train=test")
    data = load_dataset("hf:me/pets:test=train")  # to attack the training images
    assert (len(data.train), len(data.test)) == (0, 2)


def test_grey_pictures_stay_grey_and_numbers_are_classes(hub):
    given, calls = hub
    table = Table({"image": Image(), "label": Value()}, {"image": pictures(3, mode="L"), "label": [0, 2, 1]})
    given["mnist"] = {"test": table}
    data = load_dataset("hf:mnist:config=small")
    assert (data.test.images.shape, data.class_names, len(data.train)) == ((3, 1, 6, 6), ("0", "1", "2"), 0)
    assert calls[-1][1] == "small"


def test_of_several_label_columns_one_must_be_named(hub):
    given, _ = hub
    features = {"img": Image(), "fine": ClassLabel(["a", "b", "c"]), "coarse": ClassLabel(["x", "y"])}
    table = Table(features, {"img": pictures(3), "fine": [0, 1, 2], "coarse": [0, 0, 1]})
    given["c100"] = {"train": table, "test": table}
    with pytest.raises(
        IbrobustError, match="has 2 columns of labels: name one of fine, coarse, as in hf:c100:label=fine"
    ):
        load_dataset("hf:c100")
    assert load_dataset("hf:c100:label=coarse").class_names == ("x", "y")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:absent", "hf:absent is not in the cache of datasets and could not be loaded .*check the name"),
        ("hf:odd", "has the splits first, second: name the one to attack, as in hf:odd:test=first"),
        ("hf:odd:test=third", "no split 'third': choose from first, second"),
        ("hf:odd:test=first,image=text,label=name", "no column 'name': choose from text, label"),
        ("hf:odd:test=first,image=text", "Image 0 of hf:odd is a str, no picture"),
        ("hf:odd:test=first", "has 0 columns of images: name one of text, label"),
        ("hf:odd:split=first", "no option 'split'"),
        ("hf:unlabelled", "labels from -1 to -1, but classes are counted from 0: leave out images without"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(hub, spec, message):
    given, _ = hub
    text = Table({"text": Value(), "label": ClassLabel(["a", "b"])}, {"text": ["x"], "label": [0]})
    given["odd"] = {"first": text, "second": text}
    features = {"image": Image(), "label": ClassLabel(["a", "b"])}
    given["unlabelled"] = {"test": Table(features, {"image": pictures(2), "label": [-1, -1]})}
    with pytest.raises(IbrobustError, match=message) as caught:
        load_dataset(spec)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(IbrobustError, match="needs the package datasets: pip install --upgrade datasets"):
        load_dataset("hf:me/pets")


def test_a_package_that_cannot_be_imported_is_named_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "datasets.py").write_text("import no_such_module_of_datasets")
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(IbrobustError, match=r"cannot be imported \(No module named 'no_such_module_of_datasets'\)"):
        load_dataset("hf:me/pets")
