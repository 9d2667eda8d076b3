"""Computing in the precision of the tensors, although the machine would use a shorter one for speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute convolutions and products of float32 matrices in float32 in the block.

    On NVIDIA GPUs torch rounds the operands of convolutions to TF32 by default, and `set_float32_matmul_precision`
    allows the same, or bfloat16, for products of matrices. TF32 has 10 bits of mantissa: an image just across a
    decision boundary may be on the other side in float32. The switches belong to the process, so that blocks in several
    threads disturb each other.
    """
    cudnn: Any = torch.backends.cudnn  # torch does not declare its parts
    try:
        products, convolutions = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:  # a precision was set by its name, which torch 2.9 introduced: then these cannot be read
        mkldnn: Any = torch.backends.mkldnn
        parts = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul)
        with _by_name(parts):
            yield
        return
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = convolutions


@contextmanager
def _by_name(parts: tuple[Any, ...]) -> Iterator[None]:
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            part.fp32_precision = value
