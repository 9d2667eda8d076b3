"""The hardware behind a number."""

from __future__ import annotations

import pytest
import torch

from ibrobust import processes
from ibrobust.registry.provenance import hardware


@pytest.fixture
def many_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight GPUs are visible, the second of another kind."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda device: "L4" if torch.device(device).index == 1 else "H100"
    )


@pytest.mark.usefixtures("many_gpus")
def test_a_process_uses_one_gpu_however_many_are_visible(monkeypatch):
    assert hardware(torch.device("cuda")) == "H100"
    assert hardware(torch.device("cuda:1")) == "L4"
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert hardware(torch.device("cuda")) == "2 x H100"


def test_several_processes_of_a_cpu_are_counted(monkeypatch):
    alone = hardware(torch.device("cpu"))
    assert "process" not in alone.partition(", ")[2]
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert hardware(torch.device("cpu")) == f"{alone}, 2 processes"
