"""Seeds that a caller may give."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from ibrobust.errors import IbrobustError
from ibrobust.seeds import check_seed


@pytest.mark.parametrize("seed", [3, 3.0, np.int8(3), np.uint64(3), np.float32(3), Fraction(3)])
def test_whole_numbers_are_taken(seed):
    assert check_seed(seed) == 3


def test_a_large_seed_keeps_every_digit():
    assert check_seed(2**63 - 1) == 2**63 - 1


@pytest.mark.parametrize(
    "seed", [-1, 2**63, 0.5, float("nan"), float("inf"), True, np.bool_(True), "3", None, torch.tensor(3)]
)
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(IbrobustError, match="The seed is"):
        check_seed(seed)
