"""Whether bfloat16 is fast here, by trying: no public query tells what a device is fast at."""

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
    """Return whether a convolution gains enough from bfloat16 for a copy of a model to be worth making.

    Without instructions for it a processor can be 15 times slower than in float32. On a GPU a convolution this small
    says nothing, and trying a whole model costs little.
    """
    return device.type != "cpu" or _gain_of_a_convolution() > LEAST_GAIN


def is_faster(run: Callable[[], object], than: Callable[[], object], device: torch.device) -> bool:
    """Return whether `run` is faster than `than` by `LEAST_GAIN`."""
    return LEAST_GAIN * _seconds(run, device) < _seconds(than, device)


@cache
def _gain_of_a_convolution() -> float:
    """Return the time of one convolution on the CPU in float32 over that in bfloat16; some milliseconds, once."""
    times = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(8, 32, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.ones(32, 32, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            times.append(_seconds(lambda x=x, weight=weight: F.conv2d(x, weight, padding=1), x.device))  # type: ignore[misc]
    return times[0] / times[1]


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the shorter of two times."""
    # On a CPU what other programs do must not decide.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = []
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - started)
    return min(times)
