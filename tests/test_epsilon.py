"""Perturbation sizes, read and written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ibrobust.epsilon import format_epsilon, parse_epsilons, read_epsilon, read_epsilons, read_radius, small_radii
from ibrobust.errors import IbrobustError


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), (" 0 ", 0.0), ("1", 1.0), ("1e-2", 0.01)]
)
def test_parse(text: str, value: float) -> None:
    assert read_epsilon(text) == value


@pytest.mark.parametrize("text", ["", "eight", "8/", "8/0", "nan", "inf", "-0.1", "8", "1.01", "1/2/3"])
def test_what_is_not_an_epsilon(text: str) -> None:
    with pytest.raises(IbrobustError, match="epsilon"):
        read_epsilon(text)


def test_eight_is_taken_for_a_fraction_of_255() -> None:
    with pytest.raises(IbrobustError, match="fraction of 255"):
        read_epsilon("8")


@pytest.mark.parametrize(("text", "meant"), [("0,03", "0.03"), ("0,3", "0.3"), ("0,0314", "0.0314"), ("0,5", "0.5")])
def test_a_decimal_comma_is_answered_with_the_point(text: str, meant: str) -> None:
    with pytest.raises(IbrobustError, match=f"did you mean {meant}\\? A comma separates epsilons"):
        parse_epsilons(text, norm="L2")


@pytest.mark.parametrize("text", ["0.03,", ",0.03", "0.03,,0.1", ","])
def test_a_comma_without_an_epsilon_is_named(text: str) -> None:
    with pytest.raises(IbrobustError, match=f"One of the epsilons '{text}' is empty: remove the comma"):
        parse_epsilons(text)


def test_several_epsilons_instead_of_one_are_refused_with_the_remedy() -> None:
    with pytest.raises(IbrobustError, match="'2/255,4/255' is not a number: give one epsilon, such as 0.03 or 8/255"):
        read_epsilon("2/255,4/255")


def test_a_comma_separates_epsilons() -> None:
    assert parse_epsilons("0,2/255") == [0.0, 2 / 255]
    assert parse_epsilons("1,5", norm="L2") == [1.0, 5.0]


def test_the_radii_of_another_norm_are_noted() -> None:
    note = "Note: 8/255 is very small in L2; usual radii are 0.25 to 1."
    assert small_radii([0.0, 2 / 255, 8 / 255], "L2") == note
    assert [small_radii([8 / 255], "Linf"), small_radii([8 / 255, 0.5], "L2"), small_radii([0.0], "L2")] == [None] * 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (0.0, "0/255"),
        (0.02, "0.02 (5.1/255)"),
        (8 / 256, "0.03125 (7.97/255)"),
        (2e-9, "2e-09 (5.1e-07/255)"),
        (2e-15, "2e-15 (5.1e-13/255)"),
    ],
)
def test_format(value: float, text: str) -> None:
    assert format_epsilon(value) == text


@pytest.mark.parametrize(
    "one", [8 / 255, "8/255", np.float64(8 / 255), np.array(8 / 255), torch.tensor(8 / 255, dtype=torch.float64)]
)
def test_one_epsilon_is_a_list_of_one(one: object) -> None:
    assert read_epsilons(one) == [8 / 255]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "several", [(0, "4/255"), np.array([0, 4 / 255]), torch.tensor([0, 4 / 255], dtype=torch.float64)]
)
def test_several_epsilons_keep_their_order(several: object) -> None:
    assert read_epsilons(several) == [0.0, 4 / 255]  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [[True], [[0.1]], [None], None, "4/255,8/255", [b"0.1"], np.array([[0.1]])])
def test_what_is_no_epsilon_is_refused(value: object) -> None:
    with pytest.raises(IbrobustError, match="is not a number"):
        read_epsilons(value)  # type: ignore[arg-type]


def test_a_radius_may_exceed_the_pixels_range() -> None:
    assert read_radius("3/2") == 1.5
    with pytest.raises(IbrobustError, match="not a positive number"):
        read_radius(0)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_a_norm_that_sums_over_pixels_allows_more_than_one(norm: str) -> None:
    assert read_epsilons(["3.0", 128 / 255], norms=(norm,)) == [3.0, 128 / 255]
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(IbrobustError, match=f"no radius in {norm}"):
            read_epsilons(value, norms=(norm,))


def test_every_norm_has_to_allow_an_epsilon() -> None:
    with pytest.raises(IbrobustError, match=r"3 is outside \[0, 1\]"):
        read_epsilons(3.0, norms=("L2", "Linf"))


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5"), (3.0, "3"), (128 / 255, "128/255")])
def test_a_radius_in_l2_is_written_as_the_field_does(value: float, text: str) -> None:
    assert format_epsilon(value, norm="L2") == text


def test_a_radius_in_linf_is_in_the_scale_of_the_pixels() -> None:
    """8 for 8/255 would make every image of every model broken."""
    assert read_radius("8/255", norm="Linf") == 8 / 255
    with pytest.raises(IbrobustError, match="did you mean a fraction of 255"):
        read_radius(8, norm="Linf")
