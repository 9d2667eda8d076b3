from __future__ import annotations

import torch
from torchvision.transforms import functional as reference

from ibrobust.data.augment import crop_and_flip, draw_crops, draw_flips


def test_every_crop_and_flip_equals_torchvisions():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 9, 7), dtype=torch.uint8, generator=generator)
    offsets, flips = draw_crops(40, generator), draw_flips(40, generator)
    result = crop_and_flip(images, offsets, flips)
    for image, (top, left), flip, got in zip(images, offsets.tolist(), flips.tolist(), result, strict=True):
        expected = reference.crop(reference.pad(image, [4, 4, 4, 4]), top, left, 9, 7)
        if flip:
            expected = reference.hflip(expected)
        assert torch.equal(got, expected)


def test_the_middle_crop_leaves_images_as_they_are():
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(crop_and_flip(images, torch.full((5, 2), 4), torch.zeros(5, dtype=torch.bool)), images)


def test_crops_reach_every_offset_and_no_other():
    assert draw_crops(5000, torch.Generator().manual_seed(0)).unique().tolist() == list(range(9))


def test_every_image_has_its_own_draw():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 32, 32).expand(64, -1, -1, -1)
    result = crop_and_flip(images, draw_crops(64, generator), draw_flips(64, generator))
    assert len(result.flatten(1).unique(dim=0)) > 30
