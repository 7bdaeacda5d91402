"""random_crops: every crop is a crop of the padded image, and all occur."""

from __future__ import annotations

import torch
from torch.nn import functional

from repanalysis.networks.crops import random_crops


def test_every_crop_of_the_padded_image_occurs() -> None:
    image = torch.arange(1.0, 31.0).view(1, 2, 3, 5)
    padded = functional.pad(image, (1, 1, 1, 1))[0]
    crops = [padded[:, top : top + 3, left : left + 5] for top in range(3) for left in range(3)]
    drawn = random_crops(image.expand(200, -1, -1, -1), 1, torch.Generator().manual_seed(0))
    hits = [[torch.equal(image_crop, crop) for crop in crops].index(True) for image_crop in drawn]
    assert set(hits) == set(range(9))
