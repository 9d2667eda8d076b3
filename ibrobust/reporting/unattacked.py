"""The share of unattacked images above which an accuracy under FGSM is marked."""

from __future__ import annotations

DAGGER = "†"
# Above this share of images with an exactly zero gradient, the accuracy under FGSM is marked.
UNATTACKED_SHARE = 0.01
