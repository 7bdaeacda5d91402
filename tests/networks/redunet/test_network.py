"""The module: its layers for hooks, its checks of samples, and its operators."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import probes
from probes.errors import DataError
from repanalysis import analyze
from repanalysis.networks.redunet.construction import construct
from repanalysis.networks.redunet.network import Layer, ReduNet
from tests.networks.redunet.test_construction import SHAPES, samples

CASES = ["vectors", "signals", "lifted", "official"]


def built(case: str, **more: object) -> tuple[ReduNet, torch.Tensor, np.ndarray]:
    shape, options = SHAPES[case]
    x, y = samples(shape)
    return construct(x, y, layers=3, **options, **more), torch.from_numpy(x), y  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_probes_read_every_layer_and_their_rates_are_the_constructions(case: str) -> None:
    network, x, y = built(case)
    names = ["norm", "layers.0", "layers.1", "layers.2"]
    metric = f"shift_rate_reduction:eps_sq={network.step.eps_sq}"
    if case == "vectors":
        metric += f",rate_reduction:eps_sq={network.step.eps_sq},normalization=sphere"
    axes = "*=BCT" if x.ndim == 3 else None
    stream = probes.capture(network, [(x, torch.from_numpy(y))], layers=names, pool="none", axes=axes)
    frame = analyze(stream, metrics=metric, groups=0, progress=False).frame
    for name in dict.fromkeys(frame["metric"]):
        values = frame[(frame["metric"] == name) & frame["variant"].str.startswith("eps_sq")].set_index("layer")["value"]
        np.testing.assert_allclose(values[names], network.rates[:, 0, 2], atol=1e-10, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_hooks_see_lift_norm_layers_and_logits(case: str) -> None:
    network, x, _ = built(case)
    outputs: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        if (name and "." in name) or name in ("lift", "norm", "classifier"):
            module.register_forward_hook(lambda _, __, out, name=name: outputs.__setitem__(name, out))
    with torch.no_grad():
        logits = network(x)
        features = network.forward_features(x)
    assert list(outputs) == ["lift", "norm", "layers.0", "layers.1", "layers.2", "classifier"]
    assert torch.equal(outputs["classifier"], logits)
    assert torch.equal(outputs["layers.2"], features)
    assert logits.shape == (len(x), 3)
    assert (logits <= 0).all()


@pytest.mark.parametrize("case", CASES)
def test_copies_pickles_and_other_types_compute_the_same(case: str) -> None:
    network, x, _ = built(case)
    with torch.no_grad():
        expected = network.forward_features(x)
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            torch.testing.assert_close(other.forward_features(x), expected, rtol=0, atol=1e-12)
        single = copy.deepcopy(network).float()
        single.norm.dtype = torch.float32  # type: ignore[assignment]
        torch.testing.assert_close(single.forward_features(x.float()).double(), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(network.forward_features(x.float()), expected, rtol=0, atol=1e-3)


def test_operators_are_given_by_name() -> None:
    network, x, y = built("vectors")
    layer = network.layers[0]
    assert isinstance(layer, Layer)
    z = (x / x.norm(dim=1, keepdim=True)).numpy()
    alpha = 5 / (18 * 0.1)
    np.testing.assert_allclose(layer.expansion[0], alpha * np.linalg.inv(np.eye(5) + alpha * z.T @ z), atol=1e-12)
    for k in range(3):
        alpha_k = 5 / ((y == k).sum() * 0.1)
        inverse = np.linalg.inv(np.eye(5) + alpha_k * z[y == k].T @ z[y == k])
        np.testing.assert_allclose(layer.compression[k, 0], alpha_k * inverse, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_other_samples_are_refused_with_a_remedy(case: str) -> None:
    network, x, _ = built(case)
    for wrong in (x[..., :-1], x[:, None], torch.cat([x, x], dim=1)):
        with pytest.raises(DataError, match="constructed for"):
            network(wrong)
    bad = x.clone()
    bad[2] = float("nan")
    with pytest.raises(DataError, match="Sample 2 holds NaN"):
        network(bad)
    zeros = torch.zeros_like(x[:2])
    with torch.no_grad():
        assert torch.isfinite(network(zeros)).all()
    assert network(x[:0]).shape == (0, 3)
    assert network.predict(x[:0]).shape == (0,)


def test_gradients_reach_the_input() -> None:
    """A network like any other: sensitivities by back-propagation, equal to differences."""
    for case in CASES:
        network, x, _ = built(case)
        z = x.clone().requires_grad_()
        with torch.no_grad():
            torch.testing.assert_close(network.forward_features(z), network.forward_features(x))
        values = network.forward_features(z)
        with torch.no_grad():
            torch.testing.assert_close(values.detach(), network.forward_features(x), rtol=0, atol=1e-13)
        direction = torch.linspace(-1, 1, values.numel(), dtype=torch.float64).view_as(values)
        (gradient,) = torch.autograd.grad((values * direction).sum(), z)
        change = torch.sin(torch.arange(x.numel(), dtype=torch.float64)).view_as(x)
        with torch.no_grad():
            ends = [(network.forward_features(x + step * change) * direction).sum() for step in (1e-6, -1e-6)]
        assert float((gradient * change).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-5)
