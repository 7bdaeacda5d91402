"""random_crops: every crop is one of the padded image, and all of them come."""

from __future__ import annotations

import torch
from torch.nn import functional

from repanalysis.networks.crops import random_crops


def test_crops_are_those_of_the_padded_image() -> None:
    image = torch.arange(1.0, 31.0).view(1, 2, 3, 5)
    padded = functional.pad(image, (1, 1, 1, 1))[0]
    every = [padded[:, top : top + 3, left : left + 5] for top in range(3) for left in range(3)]
    found = random_crops(image.expand(200, -1, -1, -1), 1, torch.Generator().manual_seed(0))
    hits = [[torch.equal(one, crop) for crop in every].index(True) for one in found]
    assert set(hits) == set(range(9))
