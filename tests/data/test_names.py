"""The form of a data set's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ibrobust.data.names import (
    MOST_PIXELS,
    check_exists,
    file_name,
    lasting_name,
    portable_name,
    read_name,
    with_option,
)
from ibrobust.errors import IbrobustError
from ibrobust.training.recipe import Recipe


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("digits", "digits", {}),
        ("pets:test=val,size=64", "pets", {"test": "val", "size": "64"}),
        ("hf:me/pets:label=fine", "hf:me/pets", {"label": "fine"}),
        ("torchvision:EMNIST:split=letters", "torchvision:EMNIST", {"split": "letters"}),
        ("C:\\pets", "C:\\pets", {}),
        ("a:b", "a:b", {}),
    ],
)
def test_a_name_and_its_options(spec, name, options):
    assert read_name(spec) == (name, options)


def test_options_after_two_colons_are_told_where_they_belong():
    with pytest.raises(IbrobustError, match="options after two colons: .* as in NAME:size=64,channels=3"):
        check_exists("pets:size=64:channels=3")


def test_a_path_that_exists_has_no_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pets:test=val").mkdir()
    assert read_name("pets:test=val") == ("pets:test=val", {})


def test_an_option_is_added_or_replaced():
    assert with_option("digits", "channels", 1) == "digits:channels=1"
    assert with_option("pets:test=val,size=8", "test", "dev") == "pets:test=dev,size=8"


def test_a_path_becomes_absolute_and_a_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lasting_name("pets:test=val") == f"{tmp_path / 'pets'}:test=val"
    for name in ("mnist:channels=3", "hf:me/pets", "torchvision:STL10", "memory:mine", "digits"):
        assert lasting_name(name) == name


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("digits:channels=1", "digits:channels=1"),
        ("torchvision:FashionMNIST", "torchvision:FashionMNIST"),
        ("torchvision:EMNIST:split=letters", "torchvision:EMNIST:split=letters"),
        ("hf:me/pets:label=fine,test=val", "hf:me/pets:label=fine,test=val"),
        ("memory:blobs", "memory:blobs"),
        ("/home/me/pets.npz:test=val", "pets:test=val"),
        ("C:\\Users\\me\\pets:size=64", "pets:size=64"),
        ("~/images", "pets"),
        ("images", "pets"),
        ("hf:/home/me/pets:test=val", "pets:test=val"),
        ("hf:../me/pets", "pets"),
        ("/home/me/pets:train=/home/me/more/a,test=.", "pets:train=a,test=."),
        ("images:train=../../me/a,test=~/b,size=8", "pets:train=a,test=b,size=8"),
        ("hf:me/pets:config=D:\\me\\c,test=sub/val", "hf:me/pets:config=c,test=sub/val"),
    ],
)
def test_a_path_of_this_machine_is_replaced_and_options_stay(spec, expected):
    assert portable_name(spec, "pets") == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("/data/pets:size=8", "pets"), ("hf:me/pets", "pets"), ("torchvision:STL10", "STL10"), ("memory:blobs", "blobs")],
)
def test_models_are_named_after_the_last_part(spec, expected):
    assert file_name(spec) == expected
    assert Recipe(dataset=spec).default_name() == f"knn_ib-beta0.03-{expected}-w64-s0"


def test_a_size_that_no_memory_holds_is_refused():
    check_exists(f"mnist:size={MOST_PIXELS}")
    with pytest.raises(IbrobustError, match="gives size=400000: give a whole number from 1 to 4096"):
        check_exists("mnist:size=400000")
