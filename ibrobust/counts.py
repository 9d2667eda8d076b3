"""The largest whole number that a setting may be; torch and the machine's loops take no more."""

from __future__ import annotations

# Of images per batch, steps, epochs, units. A number of images has no bound: a larger one stands for all of them.
MOST = 2**31 - 1
