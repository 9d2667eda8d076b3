"""The number of a process, as launchers give it."""

from __future__ import annotations

import pytest

from ibrobust import processes


@pytest.mark.parametrize(
    ("environment", "is_main"),
    [
        ({}, True),
        ({"RANK": "1"}, True),  # of a pod, in which no launcher has started several processes
        ({"RANK": "1", "WORLD_SIZE": "1"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"PMI_RANK": "3", "PMI_SIZE": "4"}, False),
    ],
)
def test_the_main_process_is_the_first_of_several(environment, is_main, monkeypatch):
    for name in (*processes.RANK_VARIABLES, *processes.COUNT_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.is_main() is is_main
