"""The demo's network: its size, its shifts, and that training is seeded and works."""

from __future__ import annotations

import torch

from repanalysis.data import load_data
from repanalysis.networks.digits_cnn import _shifted, accuracy, digits_cnn, train


def test_parameters_are_as_documented() -> None:
    assert sum(parameter.numel() for parameter in digits_cnn().parameters()) == 69_994


def test_shifts_move_each_image_by_at_most_one_pixel() -> None:
    images = torch.zeros(200, 1, 8, 8)
    images[:, :, 4, 4] = 1.0
    moved = _shifted(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    at = moved.flatten(1).argmax(1)
    assert set(zip((at // 8).tolist(), (at % 8).tolist(), strict=True)) == {(r, c) for r in (3, 4, 5) for c in (3, 4, 5)}
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(200))


def test_training_is_seeded_and_learns() -> None:
    data = load_data("digits", split="train")
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = digits_cnn()
        train(model, data, epochs=5, seed=0)
        found.append(model.state_dict())
        assert accuracy(model, load_data("digits", split="test")) > 0.5
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
