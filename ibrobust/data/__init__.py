"""Data sets as resident uint8 tensors in [0, 255], with batches and augmentation on the device."""

from ibrobust.data.dataset import Dataset, Split, channel_statistics, to_unit_range
from ibrobust.data.load import load_dataset

__all__ = ["Dataset", "Split", "channel_statistics", "load_dataset", "to_unit_range"]
