"""Tensors from NumPy arrays of any memory layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensor_of(values: Any) -> Tensor:
    """Return a tensor with a copy of an array, or of nested lists of numbers.

    torch reads no negative strides, as of ``images[..., ::-1]``, and no other byte order than the machine's, as of FITS
    and some .npz files.

    Raises:
        TypeError: they are no numbers.
        ValueError: the lists have several lengths.
    """
    array = np.array(np.asarray(values), order="C")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array)
