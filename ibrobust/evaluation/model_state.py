"""Evaluation leaves no trace on the model or on the random generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def model_device(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU where it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode and gradients on; afterwards restore each module's own mode and the RNG.

    torchattacks alone would call `train()` on everything if the model was training, also on parts that were frozen in
    evaluation mode. Works inside a caller's `no_grad` and `inference_mode`.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = model_device(model)
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
