"""The cost of an evaluation: forward and backward passes through the model, counted during the calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """Passes through a model, each image of a batch counted."""

    forward_images: int
    backward_images: int


@contextmanager
def counting_passes(model: nn.Module) -> Iterator[Callable[[], Cost]]:
    """Yield a function that returns the cost of the passes through `model` in the block so far."""
    forward: list[int] = []  # images of each batch
    backward: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        del module, inputs
        if isinstance(output, Tensor):
            batch = len(output)
            forward.append(batch)
            if output.requires_grad:
                # On the output and not the module: a module's backward hook would put a node into the graph.
                output.register_hook(lambda _: backward.append(batch))

    handle = model.register_forward_hook(count)
    try:
        yield lambda: Cost(sum(forward), sum(backward))
    finally:
        handle.remove()
