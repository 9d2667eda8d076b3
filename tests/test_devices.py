"""Devices, as far as they are known without torch, against torch."""

from __future__ import annotations

import ctypes

import pytest
import torch

from ibrobust import devices
from ibrobust.errors import IbrobustError


def test_what_torch_was_built_for_is_read_from_its_files():
    assert (devices.built_for("cuda"), devices.built_for("hip")) == (torch.version.cuda, torch.version.hip)


def test_a_gpu_that_torch_finds_is_never_refused():
    for number in range(torch.cuda.device_count()):
        devices.check_device_exists(f"cuda:{number}")
    devices.check_device_exists("cpu")


@pytest.mark.parametrize("built", ["13.0", None], ids=["for_cuda", "for_the_cpu"])
def test_cuda_is_refused_without_its_driver(built, monkeypatch):
    def load(name):
        raise OSError(name)

    monkeypatch.setattr(devices, "built_for", {"cuda": built, "hip": None}.get)
    monkeypatch.setattr(devices.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(IbrobustError, match="'cuda:7' is not available"):
        devices.check_device_exists("cuda:7")


def test_amd_needs_no_driver_of_nvidia(monkeypatch):
    monkeypatch.setattr(devices, "built_for", {"cuda": None, "hip": "6.2"}.get)
    devices.check_device_exists("cuda")


@pytest.mark.parametrize("device", ["hpu", "privateuseone"])
def test_a_device_that_this_torch_lacks_is_refused(device):
    with pytest.raises(IbrobustError, match=f"The device '{device}' is not available"):
        devices.check_device(device)
