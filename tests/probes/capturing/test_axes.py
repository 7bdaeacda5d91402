"""Axes stated by the user: letters, windows in the batch, invalid statements, and precedence."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probes
from probes.capturing.axes import AxisRules, letters_of
from tests.probes.by_hand import SequenceFirst, outputs


class Folded(nn.Module):
    """Windows of 2 x 2 positions folded into the batch, sample by sample or window by window."""

    def __init__(self, *, major: bool) -> None:
        super().__init__()
        self.major, self.fc = major, nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2, 3)
        return self.fc(y.flatten(0, 1) if self.major else y.transpose(0, 1).flatten(0, 1))


@pytest.mark.parametrize("major", [True, False])
def test_windows_in_the_batch_are_left_out_with_the_reason_or_unfolded_as_stated(major: bool) -> None:
    net, x = Folded(major=major), torch.randn(3, 3, 8, 8)
    with pytest.raises(probes.DataError, match=r"axis 0 of its 3 holds 16 rows for each sample .* such as '\(BP\)TC'"):
        next(probes.capture(net, [x], layers="fc"))
    batch = next(probes.capture(net, [x], layers="fc", axes="fc=(BP)TC" if major else "fc=(PB)TC"))
    expected = outputs(net, x)["fc"].reshape(*((3, 16) if major else (16, 3)), 4, 5)
    np.testing.assert_allclose(batch.layers["fc"], expected.mean((1 if major else 0, 2)), rtol=1e-5, atol=1e-6)
    assert batch.info["fc"].source_dims[0] == ("sample*window" if major else "window*sample")
    assert (batch.info["fc"].axes_from, batch.info["fc"].source_shape) == ("given", (16, 4, 5))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("fc=BHWC", "Axes 'BHWC' name 4 axes, but the output of 'fc' has 3"),
        ("fc=TBC", "put the samples on axis 1 of 'fc', whose size is 5 for 4 samples"),
        ("fc=TC(BP)", "put the samples on axis 2 of 'fc', whose size is 7, which is not a multiple of 4"),
        ("fc=BXC", "write one letter per axis"),
        ("fc=TTC", "B, the samples, is required, and no axis may occur twice"),
        ("fc=(TC)B", "brackets stand for one axis that contains the samples"),
        ("fx=BTC", "No recorded layer of 'Sequential' matches 'fx', the pattern of axes."),
    ],
)
def test_invalid_axes_are_refused(axes: str, message: str) -> None:
    net = nn.Sequential()
    net.add_module("fc", nn.Linear(6, 7))
    with pytest.raises(probes.UsageError, match=re.escape(message)):
        next(probes.capture(net, [torch.randn(4, 5, 6)], axes=axes))


def test_stated_axes_take_precedence_also_in_files(tmp_path: Path) -> None:
    net, x = SequenceFirst(), torch.randn(5, 5, 6)
    with pytest.warns(UserWarning, match="'fc' contradict the measurement"):
        store = probes.record(net, [x], tmp_path / "x.h5", layers=["fc", "act"], axes={"fc": "BTC"})
    np.testing.assert_allclose(store["fc"], outputs(net, x)["fc"].mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(store["act"], outputs(net, x)["act"].mean(0), rtol=1e-5, atol=1e-6)
    assert store.attrs["axes"] == "fc=BTC"
    assert [store.info[layer].axes_from for layer in store.layers] == ["given", "measured"]
    assert [store.info[layer].source_dims[0] for layer in store.layers] == ["sample", "token"]
    with pytest.raises(probes.UsageError, match="axes: 'fc=BTC' in the file, '' now"):
        probes.record(net, [x], tmp_path / "x.h5", layers=["fc", "act"], resume=True)


def test_letters_of_axes_round_trip() -> None:
    for letters in ("TBC", "BCHW", "(BP)TC", "(PB)TC", "BATK", "LBC", "T(BA)C"):
        stated = AxisRules(letters).of("x", [])
        assert stated is not None
        assert letters_of(stated.source_dims) == letters


def test_stated_axes_that_contradict_measurements_are_used_with_a_warning() -> None:
    """Regression: with as many tokens as samples, wrong axes fitted without a warning."""
    x = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Linear(8, 5)).eval()
    with pytest.warns(UserWarning, match=r"Axes 'TBC' of '0' contradict the measurement: axis 0"):
        batch = next(iter(probes.capture(net, [x], axes="0=TBC")))
    np.testing.assert_allclose(batch.layers["0"], net(x).detach().numpy().mean(axis=0), rtol=1e-5, atol=1e-6)
