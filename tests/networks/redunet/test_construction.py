"""Laws of the construction: values that it reaches, equality of all ways to the same features, warnings and bad input."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probes.errors import DataError, UsageError
from repanalysis.networks.redunet.config import ReduNetConfig
from repanalysis.networks.redunet.construction import construct, plan
from repanalysis.networks.redunet.network import ReduNet
from tests.networks.redunet import plain

SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "vectors": ((5,), {}),
    "fewer samples than features": ((40,), {"eta_eff": 2.0}),
    "images as vectors": ((2, 3, 4), {"eta_eff": 2.0}),
    "signals": ((2, 7), {"shift_invariant": True}),
    "images": ((2, 4, 3), {"shift_invariant": True}),
    "lifted": ((1, 4, 5), {"shift_invariant": True, "channels": 3, "kernel": 2}),
    "official": ((2, 6), {"shift_invariant": True, "spectral_norm": "official"}),
    "single precision": ((2, 6), {"shift_invariant": True, "dtype": "float32"}),
}


def samples(shape: tuple[int, ...], counts: tuple[int, ...] = (7, 6, 5), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(len(counts)).repeat(counts))
    return rng.normal(size=(len(counts), *shape))[y] + rng.normal(size=(len(y), *shape)), y


def gaussians(centres: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(len(centres)).repeat(n)
    return centres[y] + 0.1 * rng.normal(size=(len(y), centres.shape[1])), y


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("centres", "expected", "tolerance"),
    [
        (np.eye(2), 0.875634, 1e-5),
        (np.eye(3), 1.879849, 1e-5),
        (np.array([[1.0, 0.0], [0.5, 3**0.5 / 2]]), 0.875634, 2e-4),
    ],
    ids=["2-D", "3-D", "60 degrees"],
)
def test_gaussian_classes_become_orthogonal_lines(centres: np.ndarray, expected: float, tolerance: float, seed: int) -> None:
    x, y = gaussians(centres, 500, seed)
    network = construct(x, y, layers=2000, test=gaussians(centres, 500, seed + 10))
    reduction = network.rates[:, :, 2]
    assert abs(reduction[-1, 0] - expected) < tolerance
    assert abs(reduction[-1, 1] - expected) < 1e-3
    assert (np.diff(reduction[:, 0]) >= -1e-12).all()
    with torch.no_grad():
        features = network.forward_features(torch.from_numpy(x)).numpy()
    cosines = np.abs(features @ features.T)
    same = y[:, None] == y
    assert cosines[same].min() > 0.999
    assert cosines[~same].max() < 0.03
    assert (network.predict(torch.from_numpy(x)) == y).mean() > 0.99


@pytest.mark.parametrize("case", SHAPES)
def test_the_construction_is_the_plain_one(case: str) -> None:
    shape, options = SHAPES[case]
    x, y = samples(shape)
    parameters = {"eta": 0.6, "eps_sq": 0.2, "lam": 4.0}
    network = construct(x, y, layers=3, **parameters, **options)
    points = network.step.grid.points
    if "eta_eff" in options:
        parameters["eta"] = network.step.eta
    if options.get("spectral_norm") == "official":
        parameters = {name: points * value for name, value in parameters.items()}
    lifted = network.lift(torch.from_numpy(x)).numpy()
    features, rates = plain.construct(lifted, y, 3, **parameters)
    tolerance = 2e-5 if options.get("dtype") == "float32" else 1e-10
    np.testing.assert_allclose(network.rates[:, 0], rates, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        np.testing.assert_allclose(network.forward_features(torch.from_numpy(x)), features, atol=tolerance)


@pytest.mark.parametrize("case", SHAPES)
def test_samples_are_mapped_alone_as_in_batches(case: str) -> None:
    shape, options = SHAPES[case]
    x, y = samples(shape)
    network = construct(x, y, layers=4, **options)
    with torch.no_grad():
        whole, logits = network.forward_features(torch.from_numpy(x)), network(torch.from_numpy(x))
        for row in range(len(x)):
            one = torch.from_numpy(x[row : row + 1])
            tolerance = 1e-5 if options.get("dtype") == "float32" else 1e-12
            torch.testing.assert_close(network.forward_features(one), whole[row : row + 1], rtol=0, atol=tolerance)
            torch.testing.assert_close(network(one), logits[row : row + 1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(whole.flatten(1).norm(dim=1), torch.ones(len(x)).to(whole.dtype), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["signals", "images", "lifted", "official"])
def test_shifted_samples_have_shifted_features_and_the_same_assignment(case: str) -> None:
    shape, options = SHAPES[case]
    x, y = samples(shape)
    network = construct(x, y, layers=6, **options)
    new = torch.from_numpy(samples(shape, seed=4)[0])
    axes = tuple(range(2, new.ndim))
    with torch.no_grad():
        for shift in range(1, 4):
            moved = new.roll((shift,) * len(axes), axes)
            expected = network.forward_features(new).roll((shift,) * len(axes), axes)
            torch.testing.assert_close(network.forward_features(moved), expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(network(moved), network(new), rtol=1e-9, atol=1e-9)


def test_rotated_samples_give_a_rotated_network() -> None:
    x, y = samples((6,))
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0]
    a, b = construct(x, y, layers=5), construct(x @ rotation, y, layers=5)
    np.testing.assert_allclose(b.rates[:, 0], a.rates[:, 0], rtol=1e-12)
    with torch.no_grad():
        rotated = a.forward_features(torch.from_numpy(x)).numpy() @ rotation
        np.testing.assert_allclose(b.forward_features(torch.from_numpy(x @ rotation)), rotated, atol=1e-12)


def test_repeated_samples_scale_eta_and_lam_and_leave_the_effective_ones() -> None:
    x, y = samples((6,))
    many, labels = np.tile(x, (3, 1)), np.tile(y, 3)
    once = construct(x, y, layers=5, eta=0.5, lam=20.0)
    scaled = construct(many, labels, layers=5, eta=1.5, lam=60.0)
    effective = construct(many, labels, layers=5, eta_eff=once.step.eta_eff, lam_eff=once.step.lam_eff)
    for other in (scaled, effective):
        np.testing.assert_allclose(other.rates[:, 0], once.rates[:, 0], rtol=1e-12)
        with torch.no_grad():
            difference = other.forward_features(torch.from_numpy(x)) - once.forward_features(torch.from_numpy(x))
        assert difference.abs().max() < 1e-12


def test_one_frequency_is_the_vector_network() -> None:
    x, y = samples((6,))
    vector = construct(x, y, layers=5)
    for shape in ((6, 1), (6, 1, 1)):
        signal = construct(x.reshape(-1, *shape), y, layers=5, shift_invariant=True)
        np.testing.assert_allclose(signal.rates[:, 0], vector.rates[:, 0], rtol=1e-13)
        with torch.no_grad():
            features = signal.forward_features(torch.from_numpy(x.reshape(-1, *shape))).flatten(1)
            torch.testing.assert_close(features, vector.forward_features(torch.from_numpy(x)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 4)])
def test_the_official_network_is_the_exact_one_with_three_parameters_converted(shape: tuple[int, ...]) -> None:
    x, y = samples(shape)
    points = int(np.prod(shape[1:]))
    official = construct(x, y, layers=6, shift_invariant=True, spectral_norm="official")
    exact = construct(x, y, layers=6, shift_invariant=True, eps_sq=0.1 * points, eta=0.5 * points, lam=500.0 * points)
    np.testing.assert_allclose(official.rates[:, 0], exact.rates[:, 0], rtol=1e-12)
    with torch.no_grad():
        a, b = (network.forward_features(torch.from_numpy(x)) for network in (official, exact))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert f"effective eps_sq={0.1 * points:g} (official" in repr(official)


def test_the_balanced_assignment_recovers_a_small_class() -> None:
    """950 and 50 samples, 60 degrees apart: the paper's softmax gives the small class to the large one."""
    rng = np.random.default_rng(0)
    centres = np.array([[1.0, 0.0], [0.5, 3**0.5 / 2]])
    y = np.arange(2).repeat([950, 50])
    x = centres[y] + 0.25 * rng.normal(size=(1000, 2))
    with pytest.warns(UserWarning, match="assignment='balanced'"):
        paper = construct(x, y, layers=20)
    balanced = construct(x, y, layers=20, assignment="balanced")
    recalls = [[(net.predict(torch.from_numpy(x))[y == k] == k).mean() for k in (0, 1)] for net in (paper, balanced)]
    assert recalls[0][1] < 0.05
    assert min(recalls[1]) > 0.9


def test_balanced_classes_have_the_same_network_with_either_assignment() -> None:
    x, y = samples((5,), (6, 6, 6))
    a, b = construct(x, y, layers=4), construct(x, y, layers=4, assignment="balanced")
    np.testing.assert_allclose(a.rates[:, 0], b.rates[:, 0], rtol=1e-12)


def test_single_precision_stays_close_over_forty_layers() -> None:
    for shape, options in (SHAPES["vectors"], SHAPES["images"]):
        x, y = samples(shape, (30, 30, 30))
        double, single = (construct(x, y, layers=40, dtype=dtype, **options) for dtype in ("float64", "float32"))
        with torch.no_grad():
            a, b = (network.forward_features(torch.from_numpy(x)) for network in (double, single))
        assert b.dtype == torch.float32
        assert (a - b).abs().max() < 1e-4


def test_a_step_that_is_too_large_warns_and_stays_finite() -> None:
    x, y = gaussians(np.array([[1.0, 0.0], [0.5, 3**0.5 / 2]]), 100, 0)
    with warnings.catch_warnings(record=True, action="always") as caught:
        network = construct(x, y, layers=50, eta_eff=50.0)
    texts = [str(warning.message) for warning in caught]
    assert any("eta_eff = 50" in text and "from 4" in text for text in texts)
    assert sum("fell at layer" in text for text in texts) == 1
    assert np.isfinite(network.rates[:, 0]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        construct(x, y, layers=50, eta_eff=2.0)
    with pytest.raises(UsageError, match="overflows; give a smaller eta"), warnings.catch_warnings(action="ignore"):
        construct(x, y, layers=3, eta=1e308)


def test_the_construction_stops_where_the_rate_stops_rising(tmp_path: Path) -> None:
    x, y = gaussians(np.eye(2), 100, 0)
    whole = construct(x, y, layers=400)
    gains = np.diff(whole.rates[:, 0, 2])
    last = int(np.argmax(gains < 1e-4))
    for output in (None, tmp_path / "net.safetensors"):
        stopped = construct(x, y, layers=400, tol=1e-4, output=output)
        assert len(stopped.layers) == last + 1
        np.testing.assert_array_equal(stopped.rates[:, 0], whole.rates[: last + 2, 0])
    assert not (tmp_path / "net.safetensors.part").exists()
    with pytest.warns(UserWarning, match="from 4 on"):
        falling = construct(*gaussians(np.array([[1.0, 0.0], [0.5, 3**0.5 / 2]]), 100, 0), layers=50, eta_eff=50.0, tol=0.0)
    assert 1 <= len(falling.layers) < 50
    assert (np.diff(falling.rates[:, 0, 2])[1:] >= 0).all()


def test_test_samples_have_rates_and_change_nothing() -> None:
    x, y = samples((5,))
    new, labels = samples((5,), (4, 0, 3), seed=2)  # one class is missing
    alone, beside = construct(x, y, layers=4), construct(x, y, layers=4, test=(new, labels))
    np.testing.assert_array_equal(alone.rates[:, 0], beside.rates[:, 0])
    assert np.isnan(alone.rates[:, 1]).all()
    assert np.isfinite(beside.rates[:, 1]).all()
    again = construct(x, y, layers=4, test=(x, y))
    np.testing.assert_allclose(again.rates[:, 1], again.rates[:, 0], rtol=1e-12)
    curve = beside.curve()
    assert list(curve["layer"][:3]) == ["norm", "layers.0", "layers.1"]
    assert curve.groupby("split")["rate_reduction"].count().tolist() == [5, 5]


@pytest.mark.parametrize("kind", [np.array(["cat", "ant", "bee"]), np.array([7, -1, 3]), np.array([2.0, 0.0, 1.0])])
def test_labels_may_be_any_integers_or_texts(kind: np.ndarray) -> None:
    x, y = samples((5,))
    network = construct(x, kind[y], layers=4)
    assert set(network.predict(torch.from_numpy(x))) <= set(kind.tolist())
    reference = construct(x, np.unique(kind, return_inverse=True)[1][y], layers=4)
    np.testing.assert_array_equal(network.rates[:, 0], reference.rates[:, 0])


X, Y = samples((5,))


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (X, np.zeros(18, int), {}, "needs two classes"),
        (np.where(np.arange(18)[:, None] == 3, np.nan, X), Y, {}, "Sample 3 holds NaN"),
        (np.where(np.arange(18)[:, None] == 3, np.inf, X), Y, {}, "Sample 3 holds NaN or infinite"),
        (X, Y[:-1], {}, "one label per sample"),
        (X, np.where(Y == 0, np.nan, Y), {}, "NaN or fractions"),
        (X, Y + 0.5, {}, "NaN or fractions"),
        (X[0], Y[:5], {}, "real numbers"),
        (X[:0], Y[:0], {}, "no samples"),
        (X + 1j, Y, {}, "real numbers"),
        (X, Y, {"shift_invariant": True}, "have no shifts"),
        (X, Y, {"channels": 4}, "shift_invariant=True"),
        (X, Y, {"spectral_norm": "official"}, "shift_invariant=True"),
        (X, Y, {"eps_sq": 0}, "eps_sq"),
        (X, Y, {"eta": -1}, "eta"),
        (X, Y, {"layers": 0}, "at least 1"),
        (X, Y, {"dtype": "float16"}, "dtype"),
        (X, Y, {"assignment": "fair"}, "assignment"),
        (X, Y, {"test": (X[:, :4], Y)}, "constructed for"),
        (X, Y, {"test": (X, Y + 1)}, "No training sample is of class 3"),
        (X.reshape(18, 1, 5), Y, {"shift_invariant": True, "channels": 2, "kernel": 9}, "smaller one"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(x: np.ndarray, y: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, UsageError), match=message):
        construct(x, y, **{"layers": 2, **options})


@pytest.mark.parametrize("options", [{}, {"assignment": "balanced"}])
def test_zero_samples_and_lonely_classes_warn_and_stay_finite(options: dict[str, Any]) -> None:
    x, y = X.copy(), Y.copy()
    x[4] = 0
    y[7] = 9
    with warnings.catch_warnings(record=True, action="always") as caught:
        network = construct(x, y, layers=5, test=(x, y), **options)
    texts = " ".join(str(warning.message) for warning in caught)
    assert "1 of 18 training samples are 0" in texts
    assert "1 of 18 test samples are 0" in texts
    assert "Class 9 has one sample" in texts
    assert np.isfinite(network.rates).all()
    with torch.no_grad():
        assert torch.isfinite(network(torch.from_numpy(x))).all()
        assert network.forward_features(torch.from_numpy(x))[4].abs().max() == 0


@pytest.mark.parametrize("case", SHAPES)
def test_a_plan_gives_the_size_of_the_file(case: str, tmp_path: Path) -> None:
    shape, options = SHAPES[case]
    x, y = samples(shape)
    network = construct(x, y, layers=3, output=tmp_path / "net.safetensors", **options)
    sizes = plan(shape, 3, 18, config=ReduNetConfig(layers=3, **options))
    assert sizes.layer_bytes == network.layers[0].operators.nbytes  # type: ignore[union-attr,operator]
    assert 0 <= (tmp_path / "net.safetensors").stat().st_size - sizes.file_bytes < 5000
    u = network.step.grid.spectrum(network.lift(torch.from_numpy(x)).to(network.norm.dtype))
    assert sizes.state_bytes == 2 * u.nbytes
    assert sizes.shape == network.step.grid.shape


@pytest.mark.parametrize("case", SHAPES)
def test_a_saved_network_is_the_same(case: str, tmp_path: Path) -> None:
    shape, options = SHAPES[case]
    x, y = samples(shape)
    network = construct(x, np.array(["c", "a", "b"])[y], layers=3, test=(x, np.array(["c", "a", "b"])[y]), **options)
    streamed = construct(
        x, np.array(["c", "a", "b"])[y], layers=3, test=(x, np.array(["c", "a", "b"])[y]), output=tmp_path / "b", **options
    )
    network.save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = ReduNet.load(tmp_path / "a")
    for other in (loaded, streamed):
        assert other.design == network.design
        np.testing.assert_array_equal(other.rates, network.rates)
        with torch.no_grad():
            tolerance = 1e-4 if options.get("dtype") == "float32" else 1e-12  # products depend on the alignment of memory
            torch.testing.assert_close(other(torch.from_numpy(x)), network(torch.from_numpy(x)), rtol=tolerance, atol=0)
    assert network.predict(torch.from_numpy(x))[0] in "abc"
