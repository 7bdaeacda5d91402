"""The demo's network: its size."""

from __future__ import annotations

from repanalysis.networks.digits_cnn import digits_cnn


def test_parameters_are_as_documented() -> None:
    assert sum(parameter.numel() for parameter in digits_cnn().parameters()) == 69_994
