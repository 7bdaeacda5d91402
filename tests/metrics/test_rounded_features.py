"""Rounded features give the values of the same numbers in float64; features dependent up to rounding add nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probes
from probes import Batch
from repanalysis import analyze
from repanalysis.metrics.effective_rank import effective_rank
from repanalysis.metrics.fisher_ratio import fisher_ratio
from repanalysis.metrics.nc1 import nc1
from repanalysis.metrics.ncc_accuracy import ncc_accuracy
from repanalysis.metrics.power_law_exponent import power_law_exponent
from repanalysis.metrics.spectrum import spectrum
from repanalysis.metrics.within_class_variance import within_class_variance
from repanalysis.statistics import ClassMoments, Rows, Samples
from repanalysis.statistics.rounding import resolution_of

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]
TYPES = ["float16", "bfloat16", "float32"]
SCATTER = [fisher_ratio, nc1, effective_rank, power_law_exponent, spectrum]


def stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded to a type; bfloat16 values are held in float32, as `probes` records them."""
    tensor = torch.from_numpy(x).to(getattr(torch, dtype))
    return tensor.float().numpy() if dtype == "bfloat16" else tensor.numpy()


def value_of(metric: Any, statistic: Any, x: np.ndarray, y: np.ndarray, dtype: str) -> dict[str, float]:
    values = metric(statistic.of(x, y).at_resolution(resolution_of(dtype)))
    return {k: float(v) for k, v in values.items()} if isinstance(values, Mapping) else {"": float(values)}


@pytest.mark.parametrize("metric", SCATTER, ids=lambda m: m.__name__)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(400, 16, 5), (40, 60, 4)], ids=["n > d", "n < d"])
def test_the_type_changes_nothing_for_independent_features(
    metric: Any, dtype: str, offset: float, shape: tuple[int, int, int], classes: Classes
) -> None:
    x, y = classes(*shape)
    x = stored(x + offset * x.std(axis=0), dtype)
    for statistic in (ClassMoments(), Rows()):
        exact = value_of(metric, statistic, x.astype(np.float64), y, "float64")
        for variant, value in value_of(metric, statistic, x, y, dtype).items():
            assert value == pytest.approx(exact[variant], rel=1e-9, nan_ok=True), (variant, type(statistic).__name__)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("d", [40, 700], ids=["n > d", "n < d"])
def test_features_dependent_up_to_rounding_add_no_directions(dtype: str, offset: float, d: int, classes: Classes) -> None:
    """The first 8 features, as they are stored, and mixtures of them computed and stored in the same type."""
    x, y = classes(400, 8, 5)
    x = stored(x + offset * x.std(axis=0), dtype).astype(np.float64)
    mixtures = x @ np.random.default_rng(1).normal(size=(8, d - 8))
    wide, exact = stored(np.c_[x, mixtures], dtype), np.c_[x, mixtures]
    tolerance = 1e-2 if dtype == "bfloat16" else 1e-3
    for statistic in (ClassMoments(), Rows()):
        fisher = fisher_ratio(statistic.of(wide, y).at_resolution(resolution_of(dtype)))
        expected = fisher_ratio(ClassMoments().of(x, y))
        for variant in ("", "trace", "pinv"):
            assert fisher[variant] == pytest.approx(expected[variant], rel=tolerance)
        assert f"rank 8 of {d}" in fisher[""].note
        for metric in (nc1, effective_rank):
            for variant, value in value_of(metric, ClassMoments(), exact, y, "float64").items():
                assert value_of(metric, statistic, wide, y, dtype)[variant] == pytest.approx(value, rel=tolerance)
        shares = value_of(spectrum, statistic, wide, y, dtype)
        assert [shares["component=5"] > 0, shares["component=10"]] == [True, 0.0]


@pytest.mark.parametrize("dtype", TYPES)
def test_a_coarsely_rounded_feature_does_not_hide_the_others(dtype: str, classes: Classes) -> None:
    """Regression: the coarse rounding of a feature far from 0 was applied to all directions."""
    x, y = classes(600, 6, 4)
    x[:, :5] *= 0.05  # nearly dependent, apart from an independent part of 5 %
    x[:, :5] += np.random.default_rng(0).normal(size=(600, 1))
    with_coarse = np.c_[x, np.random.default_rng(1).normal(size=600) + 40.0]
    wide = stored(with_coarse, dtype)
    expected = fisher_ratio(ClassMoments().of(wide.astype(np.float64), y))
    assert fisher_ratio(ClassMoments().of(wide, y).at_resolution(resolution_of(dtype)))[""] == pytest.approx(expected[""])


@pytest.mark.parametrize("dtype", TYPES)
def test_between_class_directions_below_rounding_do_not_count(dtype: str, classes: Classes) -> None:
    """Regression: five class means in a plane, mapped to many features, had two more directions by rounding."""
    x, y = classes(500, 2, 5)
    wide = stored(x @ np.random.default_rng(1).normal(size=(2, 50)), dtype)
    value = nc1(ClassMoments().of(wide, y).at_resolution(resolution_of(dtype)))
    exact = nc1(ClassMoments().of(x @ np.random.default_rng(1).normal(size=(2, 50)), y))
    assert value == pytest.approx(exact, rel=2e-2)
    assert "rank 2, not 4" in value.note


@pytest.mark.parametrize("dtype", TYPES)
def test_whitened_ncc_accuracy_is_undefined_with_rounding_directions(dtype: str, classes: Classes) -> None:
    x, y = classes(400, 5, 3)
    x += 10 * x.std(axis=0)
    wide = stored(np.c_[x, x @ np.random.default_rng(1).normal(size=(5, 5))], dtype)
    accuracy = ncc_accuracy(Samples().of(wide, y).at_resolution(resolution_of(dtype)))["whitened"]
    assert math.isnan(accuracy)
    assert "singular" in accuracy.note


def test_features_equal_up_to_the_type_are_constant() -> None:
    x = np.array([1.0, 1.0 + 2.0**-10], np.float16)[np.random.default_rng(0).integers(0, 2, 60)][:, None]
    assert math.isnan(fisher_ratio(ClassMoments().of(np.tile(x, 3), np.arange(60) % 2))[""])


@pytest.mark.parametrize("dtype", TYPES)
def test_layers_constant_up_to_rounding_are_undefined(dtype: str) -> None:
    """Regression: means over a softmax, 1/49 each up to rounding, had an accuracy of 0.45 with p = 0.048."""
    rng, y = np.random.default_rng(0), np.arange(80) % 4
    eps = float(torch.finfo(getattr(torch, dtype)).eps)
    x = stored((1 + 0.3 * eps * rng.normal(size=(80, 6))) / 49, dtype)
    resolution = resolution_of(dtype)
    assert math.isnan(ncc_accuracy(Samples().of(x, y).at_resolution(resolution))[""])
    moments = ClassMoments().of(x, y).at_resolution(resolution)
    assert math.isnan(fisher_ratio(moments)[""])
    assert math.isnan(within_class_variance(moments)["relative"])


class Bottleneck(nn.Module):
    """1 x 1 convolutions through few channels, pooled or not, and a layer norm of the mixtures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.narrow, self.wide = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.narrow(x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", [40, 600], ids=["n < d", "n > d"])
def test_the_resolution_is_that_of_the_type_the_network_computes_in(dtype: str, n: int, tmp_path: Path) -> None:
    """Pooled means of bfloat16 maps are stored as float32; the network's type sets the resolution, in files and streams."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    images = torch.from_numpy(rng.normal(size=(n, 3, 7, 7)) + 0.5 * rng.normal(size=(3, 3))[y][:, :, None, None])
    net = Bottleneck().to(getattr(torch, dtype))
    loader = [(images[i : i + 50].to(getattr(torch, dtype)), torch.from_numpy(y[i : i + 50])) for i in range(0, n, 50)]
    store = probes.record(net, loader, tmp_path / "x.h5")
    for source in (store, probes.capture(net, loader)):
        frame = analyze(source, ["fisher_ratio", "effective_rank"], groups=0).frame.set_index(["layer", "metric", "variant"])
        narrow, wide = frame.loc["narrow", "fisher_ratio", ""], frame.loc["wide", "fisher_ratio", ""]
        assert wide.value == pytest.approx(narrow.value, rel=0.1 if dtype == "bfloat16" else 1e-2)
        assert "rank 3 of 64" in wide.note, "and not full rank, though every direction has some variance"


@pytest.mark.parametrize("dtype", TYPES)
def test_layers_of_resnet20_in_any_type_agree_with_float64(dtype: str, real_data: Path) -> None:
    """resnet20 computed in a type, every layer against the float64 of the stored numbers.

    Left out: the logits, whose sum hardly varies, so that one direction is only rounding; and, in bfloat16 (three
    digits), layers in which trained batch norms have silenced a channel or two.
    """
    from repanalysis.inputs.data import load_data
    from repanalysis.inputs.models import load_model

    model = load_model("py:tests.networks.cifar_resnet:resnet20", weights=real_data / "weights" / "resnet20-12fca82f.th")
    data = load_data(f"imagefolder:{real_data}/cifar10/val.tar.gz", transform=model.transform).sample(160, seed=0)
    kind = getattr(torch, dtype)
    net = model.module.to(kind)
    layers = ["relu", "layer1.2.relu2", "layer2.1.conv1", "layer2.2.bn2", "layer3.0.relu1", "layer3.2.relu2"]
    batches = list(probes.capture(net, ((x.to(kind), labels, ids) for x, labels, ids in data.loader(80)), layers=layers))
    exact = [Batch(b.ids, {name: rows.astype(np.float64) for name, rows in b.layers.items()}, b.labels) for b in batches]
    names = ["fisher_ratio", "nc1", "effective_rank", "participation_ratio", "spectrum", "power_law_exponent", "rate_reduction"]
    typed, reference = (analyze(iter(source), names, groups=0).frame for source in (batches, exact))
    np.testing.assert_allclose(typed["value"], reference["value"], rtol=1e-4)
