"""A measurement whether bfloat16 is fast on this device, since there is no public query for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F

# What is computed in bfloat16 has to be faster by this factor. If two fifths of it are computed again in float32, which
# is the most that a screening does, it is then still no slower than float32 alone.
LEAST_GAIN = 1.7


def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether a convolution gains from bfloat16; otherwise a copy of a model is useless.

    With instructions for it a processor is two to seven times faster than in float32, without them two to fifteen times
    slower. On a GPU a convolution this small says nothing, and trying a whole model costs little.
    """
    return device.type != "cpu" or _gain_of_a_convolution() > 1.0


def is_faster(run: Callable[[], object], than: Callable[[], object], device: torch.device) -> bool:
    """Return whether `run` is faster than `than` by `LEAST_GAIN`."""
    needed, others = _seconds((run, than), device)
    return LEAST_GAIN * needed < others


@cache
def _gain_of_a_convolution() -> float:
    """Return the time of one convolution on the CPU in float32, divided by that in bfloat16."""

    def convolution(dtype: torch.dtype) -> Callable[[], object]:
        x = torch.ones(32, 32, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.ones(32, 32, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        return lambda: F.conv2d(x, weight, padding=1)

    with torch.no_grad():
        float32, bfloat16 = _seconds((convolution(torch.float32), convolution(torch.bfloat16)), torch.device("cpu"))
    return float32 / bfloat16


def _seconds(runs: tuple[Callable[[], object], Callable[[], object]], device: torch.device) -> list[float]:
    """Return the shorter of two times of each, measured in turns."""
    # On a CPU, other programs must not decide the result.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: list[list[float]] = [[], []]
    for _ in range(2):
        for run, own in zip(runs, times, strict=True):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            own.append(clock() - started)
    return [min(own) for own in times]
