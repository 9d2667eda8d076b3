"""Pictures of Pillow as uint8 pixels, and many of them as one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError

if TYPE_CHECKING:
    import numpy as np

Progress = Callable[[int, int], None]


def pixels_of(picture: Any, what: str) -> np.ndarray[Any, Any]:
    """Return the pixels (H, W, 3) uint8 of an opened picture, as they are stored.

    An orientation in EXIF data is not applied, and transparency is dropped. Grey pictures of 16 bits keep their 8 upper
    bits.

    Args:
        picture: of Pillow.
        what: it is, to begin an error with.

    Raises:
        IbrobustError: the pixels have no known range.
    """
    import numpy as np

    # A PNG or PGM of 16 bits has this mode in some versions of Pillow.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        return np.repeat(_upper_bits(picture)[..., None], 3, axis=2)
    # For these Pillow cuts off all above 255.
    if picture.mode not in ("I", "F"):
        return np.array(picture.convert("RGB"))
    raise IbrobustError(
        f"{what} has pixels of 32 bits or with signs (Pillow's mode {picture.mode!r}), and it is unknown which values "
        "mean black and white: store it with 8 or 16 bits, without signs."
    )


def _upper_bits(picture: Any) -> np.ndarray[Any, Any]:
    """Return the 8 upper bits (H, W) uint8 of a grey picture of 16 bits, as Pillow does for colours."""
    import numpy as np

    tags = picture.tag_v2 if picture.format == "TIFF" else {}
    bits = tags.get(258, (16,))[0]  # BitsPerSample: of 12 bits Pillow gives the numbers as they are
    upper = (np.asarray(picture).astype(np.int64) >> (bits - 8)).astype(np.uint8)
    return 255 - upper if tags.get(262) == 0 else upper  # PhotometricInterpretation: white is 0


def one_tensor(
    pixels: Iterable[tuple[str, np.ndarray[Any, Any]]], *, size: int | None, told: Callable[[], None]
) -> Tensor:
    """Return many pictures as images (N, 3, H, W) uint8.

    Args:
        pixels: what each picture is, for an error, and its pixels (H, W, 3) uint8.
        size: scale each picture's shorter side to this, and cut out the middle square; by default all must have one
            size.
        told: called after each picture.

    Raises:
        IbrobustError: two pictures differ in size.
    """
    parts: list[Tensor] = []
    for what, array in pixels:
        part = torch.from_numpy(array).permute(2, 0, 1)
        if size is not None:
            part = _square(part, size)
        if parts and part.shape != parts[0].shape:
            raise IbrobustError(
                f"{what} is {part.shape[2]}x{part.shape[1]} pixels, but the images before it are "
                f"{parts[0].shape[2]}x{parts[0].shape[1]}: bring all images to one size, or add :size={part.shape[1]} "
                "to the data set's name."
            )
        parts.append(part)
        told()
    return torch.stack(parts) if parts else torch.empty(0, 3, 0, 0, dtype=torch.uint8)


def _square(image: Tensor, size: int) -> Tensor:
    from torchvision.transforms import functional

    return functional.center_crop(functional.resize(image, [size], antialias=True), [size])


class Counter:
    """Counts decoded images, and tells the caller's progress some twenty times."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self) -> None:
        self.done += 1
        if self.progress and (self.done % max(self.total // 20, 1) == 0 or self.done == self.total):
            self.progress(self.done, self.total)
