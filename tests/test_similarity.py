"""Similarity of layers: plain oracles with n x n matrices, invariances, and matching by sample id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.metrics.pairwise import rbf_kernel

import probes
from probes import DataError, UsageError
from repanalysis.similarity import METHODS, Similarity, compare


@pytest.fixture
def layers(rng: np.random.Generator) -> dict[str, np.ndarray]:
    x = rng.normal(size=(60, 5))
    return {"x": x, "y": np.tanh(x @ rng.normal(size=(5, 7))) + 0.3 * rng.normal(size=(60, 7)), "z": rng.normal(size=(60, 4))}


def value(layers: dict[str, np.ndarray], method: str, a: str = "x", b: str = "y") -> float:
    return float(compare(probes.from_arrays(layers), method=method, progress=False).matrix().loc[a, b])


def hsic_unbiased(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5, word for word."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    inner = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
    return float(inner / (n * (n - 3)))


def hsic_biased(k: np.ndarray, m: np.ndarray) -> float:
    h = np.eye(len(k)) - 1 / len(k)
    return float(np.trace(k @ h @ m @ h) / (len(k) - 1) ** 2)


@pytest.mark.parametrize(("method", "hsic"), [("cka", hsic_unbiased), ("cka_biased", hsic_biased)])
def test_linear_cka_is_that_of_plain_kernels(layers: dict[str, np.ndarray], method: str, hsic: object) -> None:
    k, m = (layers[name] @ layers[name].T for name in "xy")
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))  # type: ignore[operator]
    assert value(layers, method) == pytest.approx(expected, rel=1e-10)


def test_rbf_cka_has_the_median_distance_as_width(layers: dict[str, np.ndarray]) -> None:
    kernels = []
    for name in "xy":
        x = layers[name]
        squared = np.square(x[:, None] - x[None]).sum(axis=2)
        kernels.append(rbf_kernel(x, gamma=1 / (2 * np.median(squared[np.triu_indices(60, 1)]))))
    k, m = kernels
    expected = hsic_unbiased(k, m) / np.sqrt(hsic_unbiased(k, k) * hsic_unbiased(m, m))
    assert value(layers, "cka_rbf") == pytest.approx(expected, rel=1e-10)


def test_debiased_cka_of_unrelated_layers_is_zero_on_average_and_biased_is_not() -> None:
    found = {"cka": [], "cka_biased": []}  # type: dict[str, list[float]]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        layers = {"x": rng.normal(size=(50, 40)), "y": rng.normal(size=(50, 40))}
        for method, values in found.items():
            values.append(value(layers, method))
    assert abs(np.mean(found["cka"])) < 4 * np.std(found["cka"]) / np.sqrt(30)
    assert np.mean(found["cka_biased"]) > 0.3


def test_cca_is_scikit_learns(layers: dict[str, np.ndarray]) -> None:
    a, b = CCA(5, max_iter=5000, tol=1e-10).fit_transform(layers["x"], layers["y"])
    expected = np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(5)])
    assert value(layers, "cca") == pytest.approx(expected, rel=1e-6)


def test_svcca_drops_directions_of_little_variance(layers: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    noisy = layers | {"w": np.c_[layers["x"], 1e-3 * rng.normal(size=(60, 20))]}
    assert value(noisy, "svcca", "x", "w") == pytest.approx(1.0, abs=1e-4)
    assert value(noisy, "cca", "x", "w") == pytest.approx(1.0, abs=1e-4)
    assert value(noisy, "svcca", "w", "y") == pytest.approx(value(noisy, "svcca", "x", "y"), abs=1e-3)
    assert abs(value(noisy, "cca", "w", "y") - value(noisy, "cca", "x", "y")) > 0.01


def test_rsa_is_the_rank_correlation_of_distances(layers: dict[str, np.ndarray]) -> None:
    upper = np.triu_indices(60, 1)
    distances = [np.sqrt(np.square(x[:, None] - x[None]).sum(axis=2))[upper] for x in (layers["x"], layers["y"])]
    assert value(layers, "rsa") == pytest.approx(spearmanr(*distances).statistic, rel=1e-10)


def test_procrustes_is_the_smallest_distance_over_rotations(layers: dict[str, np.ndarray]) -> None:
    x, y = (layers[name] - layers[name].mean(axis=0) for name in "xy")
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    x = np.c_[x, np.zeros((60, 2))]
    u, _, vt = np.linalg.svd(x.T @ y)
    assert value(layers, "procrustes") == pytest.approx(np.square(x @ u @ vt - y).sum() / 2, rel=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_rotations_scalings_and_shifts_change_nothing(
    layers: dict[str, np.ndarray], method: str, rng: np.random.Generator
) -> None:
    moved = layers | {"y": 3.0 * layers["y"] @ np.linalg.qr(rng.normal(size=(7, 7)))[0] + 100.0}
    assert value(moved, method) == pytest.approx(value(layers, method), rel=1e-7, abs=1e-9)
    same = value(layers, method, "x", "x")
    assert same == pytest.approx(0.0 if method == "procrustes" else 1.0, abs=1e-9)
    assert value(layers, method, "y", "x") == pytest.approx(value(layers, method, "x", "y"), rel=1e-9)


def test_two_sources_are_matched_by_id_whatever_their_order(layers: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    order = rng.permutation(60)[:50]
    a = probes.from_arrays({"x": layers["x"]})
    b = probes.from_arrays({"y": layers["y"][order]}, ids=order)
    expected = value({name: layers[name][np.sort(order)] for name in "xy"}, "cka")
    found = compare(a, b, progress=False)
    assert found.frame["value"].item() == pytest.approx(expected, rel=1e-10)
    assert found.frame["n"].item() == 50


def test_fewer_samples_are_drawn_by_id(layers: dict[str, np.ndarray]) -> None:
    found = compare(probes.from_arrays(layers), samples=30, progress=False).frame
    assert set(found["n"]) == {30}


def test_strangers_and_unknown_methods_are_one_sentence(layers: dict[str, np.ndarray]) -> None:
    a, b = probes.from_arrays(layers), probes.from_arrays(layers, ids=np.arange(1000, 1060))
    with pytest.raises(DataError, match="share 0 sample ids"):
        compare(a, b)
    with pytest.raises(UsageError, match="Did you mean 'cka'"):
        compare(a, method="ckaa")


def test_a_constant_layer_is_undefined_and_wide_ones_are_warned_about(
    layers: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    odd = layers | {"constant": np.ones((60, 3)), "wide": rng.normal(size=(60, 80))}
    for method in METHODS:
        frame = compare(probes.from_arrays(odd), method=method, progress=False).frame
        constant = (frame["layer_a"] == "constant") | (frame["layer_b"] == "constant")
        assert frame[constant]["value"].isna().all()
        assert (frame[constant]["note"] == "a layer is constant").all()
        assert frame[~constant]["value"].notna().all()
        wide = frame[~constant & ((frame["layer_a"] == "wide") | (frame["layer_b"] == "wide"))]
        assert wide["note"].str.contains("whatever they are").all() == (method in ("cca", "svcca"))


def test_a_table_is_read_as_it_was_written(layers: dict[str, np.ndarray], tmp_path: Path) -> None:
    found = compare(probes.from_arrays(layers), progress=False)
    found.to_csv(tmp_path / "cka.csv")
    again = Similarity.from_csv(tmp_path / "cka.csv")
    np.testing.assert_array_equal(again.matrix().to_numpy(), found.matrix().to_numpy())
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="no table of similarities"):
        Similarity.from_csv(tmp_path / "x.csv")
