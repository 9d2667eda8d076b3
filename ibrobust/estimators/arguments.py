"""Checks and conversion of the estimators' arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.from_numpy import tensor_of

# (N,) integers or booleans.
Labels: TypeAlias = Tensor | np.ndarray | Sequence[int]


def as_points(z: Any) -> Tensor:
    """Return points (N, D), given as a tensor, array or lists, as a tensor of the same floating dtype and device.

    Raises:
        IbrobustError: z is not (N, D) floating, or is empty.
    """
    points = _as_tensor(z, "points", "(N, D) floats")
    if points.dim() != 2 or not points.is_floating_point() or points.shape[1] < 1:
        raise IbrobustError(
            f"The points have shape {tuple(points.shape)} and dtype {points.dtype}: (N, D) floats are needed."
        )
    if len(points) == 0:
        raise IbrobustError("The points are empty: at least one is needed.")
    return points


def require_finite(points: Tensor) -> None:
    """Raise IbrobustError if a coordinate of the points (N, D) is NaN or infinite; reads them, also on a GPU."""
    # NaN if any coordinate is; ten times as fast as checking each one.
    if not bool(torch.stack(points.aminmax()).isfinite().all()):
        bad = int((~points.isfinite().all(dim=1)).sum())
        raise IbrobustError(f"{bad} of the {len(points)} points have NaN or infinite coordinates: leave them out.")


def as_labels(labels: Any, count: int) -> Tensor:
    """Return labels as int64 (count,) on their own device, without reading their values on a GPU.

    Raises:
        IbrobustError: labels are not (count,) integers or booleans.
    """
    found = _as_tensor(labels, "labels", f"({count},) integers")
    if found.shape != (count,) or found.is_floating_point() or found.is_complex():
        raise IbrobustError(
            f"The labels have shape {tuple(found.shape)} and dtype {found.dtype}: ({count},) integers are needed."
        )
    return found.long()


def whole_number(name: str, value: Any) -> int:
    """Return a whole-number argument as an int; 3.0 is 3.

    Raises:
        IbrobustError: it is not a whole number of at least 1.
    """
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, int | float | np.integer | np.floating) or not value >= 1 or not float(value).is_integer():
        raise IbrobustError(f"{name} is {value}: a whole number of at least 1 is needed.")
    return int(value)


def _as_tensor(values: Any, name: str, needed: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        return tensor_of(values)
    except (TypeError, ValueError) as error:
        raise IbrobustError(f"The {name} cannot be read as {needed}: {error}") from error
