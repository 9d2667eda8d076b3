"""scikit-learn's handwritten digits as 32x32 RGB images: real, embedded, small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ibrobust.data.dataset import Dataset, Split

TEST_EVERY = 5


def load_digits() -> Dataset:
    """Return the 1,797 digits: every fifth image is a test image (360), the others train (1,437).

    The 8x8 images of 17 grey levels are enlarged bilinearly to 32x32 and repeated over three channels.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    grey = torch.from_numpy(digits.images).float().unsqueeze(1) * (255.0 / 16.0)  # (N, 1, 8, 8)
    large = F.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)  # (N, 1, 32, 32)
    images = large.round().clamp(0, 255).to(torch.uint8).repeat(1, 3, 1, 1)  # (N, 3, 32, 32)
    labels = torch.from_numpy(digits.target).long()
    is_test = torch.arange(len(labels)) % TEST_EVERY == 0

    def part(mask: Tensor) -> Split:
        return Split(images[mask].contiguous(), labels[mask].contiguous())

    return Dataset("digits", tuple(str(digit) for digit in range(10)), part(~is_test), part(is_test))
