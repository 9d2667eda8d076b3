"""Random numbers of a block that neither depend on the caller's generators nor change them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Seed the global generators of torch (every device), NumPy and Python in the block; restore them afterwards.

    APGD, FAB and Square reseed torch's, and a few of torchattacks' attacks draw from the other two.
    """
    # Reading a GPU's generator starts CUDA, which takes memory and forbids forks: not for work on the CPU.
    started = torch.cuda.is_initialized()
    devices = list(range(torch.cuda.device_count())) if started else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)
                random.seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if not started:
            # A seed also waits for GPUs that start later: they get the caller's again, which the CPU's generator has.
            torch.cuda.manual_seed_all(torch.initial_seed())
