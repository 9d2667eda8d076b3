"""The random numbers of a block, apart from the caller's."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from ibrobust.isolated_rng import isolated_rng


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_a_seed_gives_the_same_numbers_and_the_callers_go_on_as_if_the_block_had_not_been():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    without = [drawn(), drawn()]
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first = drawn()
    with isolated_rng(3):
        inside = drawn()
    assert [first, drawn()] == without
    with pytest.raises(ValueError), isolated_rng(3):  # noqa: PT011
        assert drawn() == inside
        raise ValueError


def test_gpus_that_no_one_has_started_are_left_alone_and_later_get_the_callers_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: pytest.fail(f"GPU {device} was started"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(1)
    with isolated_rng(3):
        pass
    assert seeds[-1] == 1
    seeds.clear()
    with pytest.raises(ValueError), isolated_rng():  # noqa: PT011
        torch.manual_seed(4)  # as APGD does
        raise ValueError
    assert seeds[-1] == 1


def test_the_first_use_of_a_name_of_the_package_leaves_pythons_generator_alone():
    # In a process of its own, where nothing was imported yet.
    code = "import random, ibrobust; random.seed(1); ibrobust.fgsm_sweep; print(random.random())"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    random.seed(1)
    assert float(found) == random.random()
