"""The accelerator of a run: its device, precision, trackers and processes."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust import processes
from ibrobust.devices import check_device
from ibrobust.errors import IbrobustError
from ibrobust.training.quick_checks import check_tracker
from ibrobust.training.recipe import Recipe

# What DistributedDataParallel puts before the name of every weight.
WRAPPED = "module."


def build_accelerator(
    recipe: Recipe, run_dir: Path, *, device: str | None, log_with: str | None, precision: str | None = None
) -> Any:
    """Return an `accelerate.Accelerator`; processes of one launch are connected afterwards.

    Args:
        recipe: of the run.
        run_dir: its folder.
        device: see `train_encoder`.
        log_with: see `train_encoder`.
        precision: with which the run began; by default the recipe's on this device.

    Raises:
        IbrobustError: the device or the tracker is not available.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    cpu = is_cpu(device)
    check_tracker(log_with)
    processes.join(cpu=cpu)
    if device is not None:
        _choose_device(device)
    # accelerate keeps one state per process and refuses a second with another precision; a study trains several models.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        mixed_precision=precision or precision_of(recipe, cpu=cpu or not torch.cuda.is_available()),
        cpu=cpu,
        log_with=log_with,
        project_dir=str(run_dir),
    )
    # accelerate takes another number from the environment, and would divide every gradient by it.
    accelerator.gradient_accumulation_steps = 1
    accelerator.register_save_state_pre_hook(_save_unwrapped)
    accelerator.register_load_state_pre_hook(_load_unwrapped)
    return accelerator


def precision_of(recipe: Recipe, *, cpu: bool) -> str:
    """Return the precision of a recipe's training: for ``auto``, bf16 if the device has instructions for it, else no.

    Without such instructions autocast is several times slower than float32.
    """
    if recipe.mixed_precision != "auto":
        return recipe.mixed_precision
    if cpu:
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if fast else "no"


def is_cpu(device: str | None) -> bool:
    """Return whether `device` names the CPU."""
    return device is not None and device.split(":")[0] == "cpu"


def _save_unwrapped(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:  # noqa: ARG001
    """Name the weights as a single process does, so that any number of processes can resume the run."""
    weights[:] = [
        # accelerate makes tensors contiguous in an OrderedDict alone.
        OrderedDict((name.removeprefix(WRAPPED), tensor) for name, tensor in state.items())
        for state in weights
    ]


def _load_unwrapped(models: list[nn.Module], folder: str) -> None:  # noqa: ARG001
    models[:] = [model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model for model in models]


def _choose_device(device: str) -> None:
    """Make accelerate use `device`; raise IbrobustError if it is not available."""
    wanted = check_device(device)
    if wanted.type == "cpu":
        return
    if wanted.type != "cuda":
        raise IbrobustError(f"Training does not run on the device {device!r}: use cpu, cuda or cuda:N.")
    if processes.count() == 1:
        torch.cuda.set_device(wanted.index or 0)
    elif torch.device(device).index is not None:
        raise IbrobustError(
            f"The device {device!r} cannot serve {processes.count()} processes: leave it out, so that each process "
            "takes its own."
        )
