"""When a figure under FGSM is marked: some images were not attacked at all."""

from __future__ import annotations

DAGGER = "†"
# Above this share of images with an exactly zero gradient, FGSM's accuracy is marked: those images were not attacked.
UNATTACKED_SHARE = 0.01
