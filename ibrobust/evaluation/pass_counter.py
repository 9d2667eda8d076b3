"""The cost of an evaluation: forward and backward passes through the model, counted during the calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """Passes through a model, each image of a batch counted."""

    forward_images: int
    backward_images: int


class PassCounter:
    """Counts that rise while `counting_passes` is open."""

    def __init__(self) -> None:
        self.forward_images = 0
        self.backward_images = 0

    @property
    def cost(self) -> Cost:
        """The counts so far."""
        return Cost(self.forward_images, self.backward_images)

    def _forward_hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        del module, inputs
        if not isinstance(output, Tensor):
            return
        batch = len(output)
        self.forward_images += batch
        if output.requires_grad:
            # On the output and not the module: a module's backward hook would put a node into the graph.
            output.register_hook(lambda _: self._count_backward(batch))

    def _count_backward(self, batch: int) -> None:
        self.backward_images += batch


@contextmanager
def counting_passes(model: nn.Module) -> Iterator[PassCounter]:
    """Yield a counter of the passes through `model` in the block."""
    counter = PassCounter()
    handle = model.register_forward_hook(counter._forward_hook)
    try:
        yield counter
    finally:
        handle.remove()
