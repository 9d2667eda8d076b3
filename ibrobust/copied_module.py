"""Copies of modules, also of those that keep tensors of their last pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module, *, shared: Iterable[Tensor] = ()) -> Module:
    """Return a deep copy that has the `shared` tensors themselves; stored tensors lose their history.

    Raises:
        Exception: whatever the module's parts raise if they cannot be copied.

    Examples:
        >>> import torch
        >>> from ibrobust.copied_module import copied
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer.last = layer(torch.ones(1, 2))  # copy.deepcopy refuses it
        >>> copied(layer).last.requires_grad
        False
    """
    with _WithoutHistory():
        return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})


class _WithoutHistory(TorchFunctionMode):
    """In its block, a copied tensor has no history, with which `deepcopy` refuses it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
