"""Pooling scalings: tables and slopes of the specification, simulated networks, and the controls."""

from __future__ import annotations

import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.theory.pooling_scalings import PoolingNet, predicted, simulated


def test_the_table_of_stride_one() -> None:
    values = predicted(PoolingNet(512, 3), np.array([0, 1, 2, 4, 8, 16]))
    np.testing.assert_allclose(values["D"], [1.00196, 0.33530, 0.15922, 0.08317, 0.04449, 0.02317], atol=6e-6)
    np.testing.assert_allclose(values["G"], [0.5010, 0.8231, 1.0279, 1.2992, 1.6865, 2.2454], atol=6e-5)
    np.testing.assert_allclose(values["R"], values["D"] / values["G"])


def test_the_table_of_stride_two() -> None:
    values = predicted(PoolingNet(512, 2, stride=2), np.arange(7))
    np.testing.assert_allclose(values["D"], [1.00196, 0.501961, 0.251969, 0.126984, 0.064516, 0.033333, 0.017857], atol=6e-6)
    np.testing.assert_allclose(values["G"], [0.501, 0.662, 0.985, 1.640, 2.980, 5.796, 12.031], atol=6e-4)


def test_the_table_of_two_dimensions() -> None:
    values = predicted(PoolingNet(64, 3, dimensions=2), np.array([4, 8, 16]))
    np.testing.assert_allclose(values["D"], [0.08292, 0.04452, 0.02341], atol=6e-6)
    np.testing.assert_allclose(values["G"], [5.983, 11.454, 22.677], atol=6e-4)


def test_slopes_agree_with_the_power_laws() -> None:
    layers = np.array([16, 256])
    values = predicted(PoolingNet(2**15, 3), layers)
    slopes = {name: np.log(values[name][1] / values[name][0]) / np.log(16) for name in ("D", "G", "R")}
    assert slopes["D"] == pytest.approx(-0.988, abs=2e-3)
    assert slopes["G"] == pytest.approx(0.454, abs=2e-3)
    assert slopes["R"] == pytest.approx(-0.988 - 0.454, abs=4e-3)
    excess = values["G"] - (1 - 1 / np.pi) / 2  # the constant that hides the exponent
    assert np.log(excess[1] / excess[0]) / np.log(16) == pytest.approx(0.5, abs=5e-3)


@pytest.mark.parametrize(
    ("net", "layers"),
    [
        (PoolingNet(64, 3), [0, 1, 4, 16]),
        (PoolingNet(60, 4), [1, 3]),
        (PoolingNet(64, 2, stride=2), [0, 1, 3, 5]),
        (PoolingNet(81, 3, stride=3), [0, 1, 3]),
        (PoolingNet(12, 3, dimensions=2), [1, 3]),
        (PoolingNet(16, 2, stride=2, dimensions=2), [1, 3]),
    ],
)
def test_simulated_networks_agree_with_predictions(net: PoolingNet, layers: list[int]) -> None:
    k = np.array(layers)
    for rectified in (True, False):
        predictions, measured = predicted(net, k, rectified=rectified), simulated(net, k, rectified=rectified, draws=40)
        np.testing.assert_allclose(measured["D"], predictions["D"], rtol=1e-10)
        np.testing.assert_allclose(measured["G"], predictions["G"], rtol=0.05)


def test_larger_shifts_at_stride_one() -> None:
    net, k = PoolingNet(64, 3), np.array([1, 8])
    np.testing.assert_allclose(simulated(net, k, shift=3, draws=1)["D"], predicted(net, k, shift=3)["D"], rtol=1e-10)


def test_unrectified_noise_stays_at_1() -> None:
    values = predicted(PoolingNet(4096, 3), np.array([1, 16, 64]), rectified=False)
    np.testing.assert_allclose(values["G"], 1.0, rtol=0.01)


def test_strides_that_overlap_or_do_not_fit() -> None:
    """F = 2 s: D falls by about 1/4 a layer; F = 3, s = 2 is not a partition of unity, and D saturates."""
    smooth = simulated(PoolingNet(1024, 4, stride=2), np.arange(1, 6), draws=1)["D"].to_numpy()
    assert smooth[3] / smooth[2] == pytest.approx(0.26, abs=0.04)
    stuck = simulated(PoolingNet(1024, 3, stride=2), np.arange(1, 7), draws=1)["D"].to_numpy()
    assert (stuck[1:] > 0.2).all()
    assert (stuck[1:] < 0.3).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PoolingNet(4, 5), "is not such a network"),
        (lambda: predicted(PoolingNet(64, 4, stride=2), np.array([1])), "Closed forms are for stride 1"),
        (lambda: predicted(PoolingNet(64, 2, stride=2), np.array([1]), shift=2), "Closed forms are for stride 1"),
        (lambda: predicted(PoolingNet(64, 2, stride=2), np.array([6])), "has 5 layers with more than one pixel"),
    ],
)
def test_invalid_parameters_have_one_sentence_errors(make: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make()  # type: ignore[operator]
