"""Data sets as uint8 tensors in [0, 255] in memory, with batches and augmentation on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.data.dataset import Dataset, Split, channel_statistics, to_unit_range
    from ibrobust.data.load import load_dataset

_HOMES = {
    "ibrobust.data.dataset": "Dataset Split channel_statistics to_unit_range",
    "ibrobust.data.load": "load_dataset",
}

__all__ = ["Dataset", "Split", "channel_statistics", "load_dataset", "to_unit_range"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
