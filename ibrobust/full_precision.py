"""Computing in the precision of the tensors, and in float32, whatever torch is set to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

AUTOCAST = ("cpu", "cuda")  # kinds of devices
_lock = threading.Lock()
_blocks = 0  # that are open, in all threads: the switches belong to the process
_restore: Callable[[], None]


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute convolutions and products of float32 matrices in float32 in the block, also within an autocast.

    On NVIDIA GPUs torch rounds the operands of convolutions to TF32 by default, and `set_float32_matmul_precision`
    allows the same, or bfloat16, for products of matrices. TF32 has 10 bits of mantissa: an image just across a
    decision boundary may be on the other side in float32. The switches belong to the process: while several threads
    are in such blocks, the switches stay off until the last block ends.
    """
    global _blocks, _restore
    with _lock:
        if _blocks == 0:
            _restore = _switch_off()
        _blocks += 1
    try:
        with ExitStack() as stack:
            for kind in AUTOCAST:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _restore()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new floating tensors of this dtype in the block, whatever torch's default dtype is.

    ibrobust's models are in float32. Attack libraries mix tensors of the default dtype with float32 images, so they
    fail if the default is float64.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _switch_off() -> Callable[[], None]:
    """Allow no shorter precision; return what allows it again as before."""
    cudnn: Any = torch.backends.cudnn  # torch does not declare its parts
    try:
        products, convolutions = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:  # a precision was set by its name, which torch 2.9 introduced: then these cannot be read
        return _switch_off_by_name()
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False

    def restore() -> None:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = convolutions

    return restore


def _switch_off_by_name() -> Callable[[], None]:
    cudnn, mkldnn = (getattr(torch.backends, name) for name in ("cudnn", "mkldnn"))
    parts = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul)
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = "ieee"

    def restore() -> None:
        for part, value in zip(parts, before, strict=True):
            part.fp32_precision = value

    return restore
