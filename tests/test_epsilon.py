"""Perturbation sizes, read and written."""

from __future__ import annotations

import pytest

from ibrobust.epsilon import format_epsilon, parse_epsilon
from ibrobust.errors import IbrobustError


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), (" 0 ", 0.0), ("1", 1.0), ("1e-2", 0.01)]
)
def test_parse(text: str, value: float) -> None:
    assert parse_epsilon(text) == value


@pytest.mark.parametrize("text", ["", "eight", "8/", "8/0", "nan", "inf", "-0.1", "8", "1.01", "1/2/3"])
def test_what_is_not_an_epsilon(text: str) -> None:
    with pytest.raises(IbrobustError, match="epsilon"):
        parse_epsilon(text)


def test_eight_is_taken_for_a_fraction_of_255() -> None:
    with pytest.raises(IbrobustError, match="fraction of 255"):
        parse_epsilon("8")


@pytest.mark.parametrize(("value", "text"), [(8 / 255, "8/255"), (0.0, "0/255"), (0.02, "0.02 (5.1/255)")])
def test_format(value: float, text: str) -> None:
    assert format_epsilon(value) == text
