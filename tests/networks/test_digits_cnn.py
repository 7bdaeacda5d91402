"""The demo's network: its size, its shifts, and that training is seeded and works."""

from __future__ import annotations

import torch

from repanalysis.inputs.data import load_data
from repanalysis.networks.digits_cnn import digits_cnn
from repanalysis.studies.demo import accuracy, train


def test_parameters_are_as_documented() -> None:
    assert sum(parameter.numel() for parameter in digits_cnn().parameters()) == 69_994


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
