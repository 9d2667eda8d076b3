"""Restoring the model and the random generators after an evaluation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.full_precision import full_precision
from ibrobust.isolated_rng import isolated_rng


def model_device(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU if it has none.

    Raises:
        IbrobustError: a parameter or buffer is on torch's meta device.
    """
    tensors = (*model.parameters(), *model.buffers())
    if any(tensor.is_meta for tensor in tensors):
        raise IbrobustError("The model is on torch's meta device, which holds no weights: load its weights first.")
    return tensors[0].device if tensors else torch.device("cpu")


def floating_dtypes(model: nn.Module) -> list[torch.dtype]:
    """Return the dtypes of the model's floating parameters and buffers, each once."""
    tensors = (*model.parameters(), *model.buffers())
    return list(dict.fromkeys(tensor.dtype for tensor in tensors if tensor.is_floating_point()))


def attack_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of the model's images in attacks: float64 if the whole model is float64, else float32.

    The model's own half precision is never used: its grid is coarser than a small epsilon.
    """
    return torch.float64 if floating_dtypes(model) == [torch.float64] else torch.float32


def model_reference(model: nn.Module) -> Tensor:
    """Return an empty tensor with the model's device and the dtype of its images in attacks."""
    return torch.empty(0, device=model_device(model), dtype=attack_dtype(model))


@contextmanager
def evaluation_mode(model: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Put every module in evaluation mode and freeze its parameters; restore everything afterwards, the RNGs too.

    Convolutions and products of matrices are computed in the precision of their dtype, see `full_precision`.
    Without this, torchattacks would call `train()` on everything if the model was training, including parts that were
    frozen in evaluation mode, and its attacks that call `backward` would add to the parameters' gradients. Gradients
    are enabled, even inside a caller's `no_grad` and `inference_mode`.

    Args:
        model: any module.
        seed: of the global generators within; by default their state is not changed.
    """
    # A frozen TorchScript module has no mode.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    autocast = torch.autocast(model_device(model).type, enabled=False)  # the caller's would round to half precision
    with isolated_rng(seed), full_precision(), autocast, torch.inference_mode(False), torch.enable_grad():
        try:
            set_evaluation_mode(model)
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, training in modes:  # a module may do more than note the mode, such as merge its weights
                if module.training != training and type(module).train is not nn.Module.train:
                    module.train(training)
            for module, training in modes:
                module.training = training
            for parameter in trainable:
                parameter.requires_grad_(True)


def set_evaluation_mode(model: nn.Module) -> None:
    """Put every module in evaluation mode."""
    try:
        model.eval()
    except NotImplementedError:  # an exported program keeps the mode of its export
        for module in model.modules():
            module.training = False


def random_state(device: torch.device) -> tuple[object, ...]:
    """Return the state of the global generators for a model on the device: torch's, NumPy's and Python's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    kind, keys, *place = np.random.get_state(legacy=True)
    return (*(state.numpy().tobytes() for state in states), kind, np.asarray(keys).tobytes(), *place, random.getstate())
