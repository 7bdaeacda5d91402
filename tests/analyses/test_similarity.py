"""Similarity of layers: plain oracles with n x n matrices, invariances, and matching by sample id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats import spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.metrics.pairwise import rbf_kernel

import probes
from probes import DataError, FormatError, LeftOutWarning, UsageError
from repanalysis.analyses.similarity import METHODS, Similarity, compare
from repanalysis.analyses.uncertainty import jackknife
from repanalysis.statistics.draws import JACKKNIFE_SEED, SUBSAMPLE_SEED, hashed


@pytest.fixture
def layers(rng: np.random.Generator) -> dict[str, np.ndarray]:
    x = rng.normal(size=(60, 5))
    return {"x": x, "y": np.tanh(x @ rng.normal(size=(5, 7))) + 0.3 * rng.normal(size=(60, 7)), "z": rng.normal(size=(60, 4))}


def value(layers: dict[str, np.ndarray], method: str, a: str = "x", b: str = "y") -> float:
    return float(compare(probes.from_arrays(layers), method=method, progress=False).matrix().loc[a, b])


def hsic_unbiased(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5, literally."""
    n, ones = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    inner = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (ones @ k @ m @ ones)
    return float(inner / (n * (n - 3)))


def hsic_biased(k: np.ndarray, m: np.ndarray) -> float:
    h = np.eye(len(k)) - 1 / len(k)
    return float(np.trace(k @ h @ m @ h) / (len(k) - 1) ** 2)


@pytest.mark.parametrize(("method", "hsic"), [("cka", hsic_unbiased), ("cka_biased", hsic_biased)])
def test_linear_cka_agrees_with_plain_kernels(layers: dict[str, np.ndarray], method: str, hsic: object) -> None:
    k, m = (layers[name] @ layers[name].T for name in "xy")
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))  # type: ignore[operator]
    assert value(layers, method) == pytest.approx(expected, rel=1e-10)


def test_rbf_cka_uses_the_median_distance_as_width(layers: dict[str, np.ndarray]) -> None:
    kernels = []
    for name in "xy":
        x = layers[name]
        squared = np.square(x[:, None] - x[None]).sum(axis=2)
        kernels.append(rbf_kernel(x, gamma=1 / (2 * np.median(squared[np.triu_indices(60, 1)]))))
    k, m = kernels
    expected = hsic_unbiased(k, m) / np.sqrt(hsic_unbiased(k, k) * hsic_unbiased(m, m))
    assert value(layers, "cka_rbf") == pytest.approx(expected, rel=1e-10)


def test_debiased_cka_of_unrelated_layers_is_zero_on_average_and_biased_is_not() -> None:
    results = {"cka": [], "cka_biased": []}  # type: dict[str, list[float]]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        layers = {"x": rng.normal(size=(50, 40)), "y": rng.normal(size=(50, 40))}
        for method, values in results.items():
            values.append(value(layers, method))
    assert abs(np.mean(results["cka"])) < 4 * np.std(results["cka"]) / np.sqrt(30)
    assert np.mean(results["cka_biased"]) > 0.3


def test_cca_agrees_with_scikit_learn(layers: dict[str, np.ndarray]) -> None:
    a, b = CCA(5, max_iter=5000, tol=1e-10).fit_transform(layers["x"], layers["y"])
    expected = np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(5)])
    assert value(layers, "cca") == pytest.approx(expected, rel=1e-6)


def test_svcca_drops_directions_of_little_variance(layers: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    noisy = layers | {"w": np.c_[layers["x"], 1e-3 * rng.normal(size=(60, 20))]}
    assert value(noisy, "svcca", "x", "w") == pytest.approx(1.0, abs=1e-4)
    assert value(noisy, "cca", "x", "w") == pytest.approx(1.0, abs=1e-4)
    assert value(noisy, "svcca", "w", "y") == pytest.approx(value(noisy, "svcca", "x", "y"), abs=1e-3)
    assert abs(value(noisy, "cca", "w", "y") - value(noisy, "cca", "x", "y")) > 0.01


def svcca(x: np.ndarray, y: np.ndarray) -> tuple[float, list[int]]:
    """Mean correlation of the leading directions that reach 99 % of the variance in each layer, and their numbers."""
    bases = []
    for z in (x, y):
        u, sizes, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
        rank = 1
        while np.square(sizes[:rank]).sum() < 0.99 * np.square(sizes).sum():
            rank += 1
        bases.append(u[:, :rank])
    ranks = [basis.shape[1] for basis in bases]
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()), ranks


@pytest.mark.parametrize("decay", [0.3, 0.5, 0.65])
def test_svcca_keeps_as_many_directions_as_reach_99_percent_of_the_variance(decay: float, rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 12)) * decay ** np.arange(12)
    y = (np.tanh(x @ rng.normal(size=(12, 9))) + 0.3 * rng.normal(size=(60, 9))) * decay ** np.arange(9)
    expected, ranks = svcca(x, y)
    assert all(1 < rank < 9 for rank in ranks)
    assert value({"x": x, "y": y}, "svcca") == pytest.approx(expected, rel=1e-9)


def test_svcca_of_shared_directions_is_their_share_of_the_smaller_dimension(rng: np.random.Generator) -> None:
    """Variances 60 : 38.5 : 1 : 0.5 reach 99 % with the third; of these three, five equal directions hold two: 2/3."""
    basis = rng.normal(size=(60, 9))
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0]
    layers = {"x": basis[:, :4] * np.sqrt([60.0, 38.5, 1.0, 0.5]), "y": basis[:, [0, 1, 6, 7, 8]]}
    assert value(layers, "svcca") == pytest.approx(2 / 3, rel=1e-9)
    assert value(layers, "cca") == pytest.approx(2 / 4, rel=1e-9)


def test_the_error_of_svcca_is_the_standard_deviation_over_subsamples(layers: dict[str, np.ndarray]) -> None:
    """20 draws that leave out 18 of 60 samples: sd sqrt((n - m) / m), times Student's t of 19 degrees over 1.96."""
    order, rng = np.argsort(hashed(np.arange(60), SUBSAMPLE_SEED)), np.random.default_rng(0)
    parts = [order[rng.permutation(60)[18:]] for _ in range(20)]
    values = [svcca(layers["x"][rows], layers["y"][rows])[0] for rows in parts]
    expected = np.std(values, ddof=1) * np.sqrt(42 / 18) * stats.t.ppf(0.975, 19) / stats.norm.ppf(0.975)
    assert pair(layers, "svcca")["se"] == pytest.approx(expected, rel=1e-7)


def test_rsa_agrees_with_the_rank_correlation_of_distances(layers: dict[str, np.ndarray]) -> None:
    upper = np.triu_indices(60, 1)
    distances = [np.sqrt(np.square(x[:, None] - x[None]).sum(axis=2))[upper] for x in (layers["x"], layers["y"])]
    assert value(layers, "rsa") == pytest.approx(spearmanr(*distances).statistic, rel=1e-10)


def test_procrustes_agrees_with_the_smallest_distance_over_rotations(layers: dict[str, np.ndarray]) -> None:
    x, y = (layers[name] - layers[name].mean(axis=0) for name in "xy")
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    x = np.c_[x, np.zeros((60, 2))]
    u, _, vt = np.linalg.svd(x.T @ y)
    assert value(layers, "procrustes") == pytest.approx(np.square(x @ u @ vt - y).sum() / 2, rel=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_rotations_scalings_and_shifts_change_nothing(
    layers: dict[str, np.ndarray], method: str, rng: np.random.Generator
) -> None:
    transformed = layers | {"y": 3.0 * layers["y"] @ np.linalg.qr(rng.normal(size=(7, 7)))[0] + 100.0}
    assert value(transformed, method) == pytest.approx(value(layers, method), rel=1e-7, abs=1e-9)
    self_similarity = value(layers, method, "x", "x")
    assert self_similarity == pytest.approx(0.0 if method == "procrustes" else 1.0, abs=1e-9)
    assert value(layers, method, "y", "x") == pytest.approx(value(layers, method, "x", "y"), rel=1e-9)


def test_two_sources_are_matched_by_id_in_any_order(layers: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    order = rng.permutation(60)[:50]
    a = probes.from_arrays({"x": layers["x"]})
    b = probes.from_arrays({"y": layers["y"][order]}, ids=order)
    expected = value({name: layers[name][np.sort(order)] for name in "xy"}, "cka")
    similarity = compare(a, b, progress=False)
    assert similarity.frame["value"].item() == pytest.approx(expected, rel=1e-10)
    assert similarity.frame["n"].item() == 50


def test_fewer_samples_are_drawn_by_id(layers: dict[str, np.ndarray]) -> None:
    frame = compare(probes.from_arrays(layers), samples=30, progress=False).frame
    assert set(frame["n"]) == {30}


def test_disjoint_samples_and_unknown_methods_have_one_sentence_errors(layers: dict[str, np.ndarray]) -> None:
    a, b = probes.from_arrays(layers), probes.from_arrays(layers, ids=np.arange(1000, 1060))
    with pytest.raises(DataError, match="share 0 sample ids"):
        compare(a, b)
    with pytest.raises(UsageError, match="Did you mean 'cka'"):
        compare(a, method="ckaa")


def test_constant_layers_are_undefined_and_wide_layers_warn(layers: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    extended = layers | {"constant": np.ones((60, 3)), "wide": rng.normal(size=(60, 80))}
    for method in METHODS:
        frame = compare(probes.from_arrays(extended), method=method, progress=False).frame
        constant = (frame["layer_a"] == "constant") | (frame["layer_b"] == "constant")
        assert frame[constant]["value"].isna().all()
        assert (frame[constant]["note"] == "a layer is constant").all()
        assert frame[~constant]["value"].notna().all()
        wide = frame[~constant & ((frame["layer_a"] == "wide") | (frame["layer_b"] == "wide"))]
        assert wide["note"].str.contains("for any data").all() == (method in ("cca", "svcca"))


def test_a_table_of_similarities_survives_writing_and_reading(layers: dict[str, np.ndarray], tmp_path: Path) -> None:
    similarity = compare(probes.from_arrays(layers), progress=False)
    similarity.to_csv(tmp_path / "cka.csv")
    reread = Similarity.from_csv(tmp_path / "cka.csv")
    np.testing.assert_array_equal(reread.matrix().to_numpy(), similarity.matrix().to_numpy())
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="not a table of similarities"):
        Similarity.from_csv(tmp_path / "x.csv")


def test_a_truncated_table_of_similarities_is_refused(layers: dict[str, np.ndarray], tmp_path: Path) -> None:
    similarity = compare(probes.from_arrays({"1.10": layers["x"], "1.1": layers["y"]}), progress=False)
    similarity.to_csv(tmp_path / "s.csv")
    content = (tmp_path / "s.csv").read_bytes()
    for end in range(len(content)):
        (tmp_path / "cut.csv").write_bytes(content[:end])
        with pytest.raises(FormatError, match=r"cut\.csv"):
            Similarity.from_csv(tmp_path / "cut.csv")
    assert pd.read_csv(tmp_path / "s.csv")["rows"].tolist() == [4] * 4
    (tmp_path / "joined.csv").write_bytes(content + content.partition(b"\n")[2])
    joined = Similarity.from_csv(tmp_path / "joined.csv").frame
    pd.testing.assert_frame_equal(joined, pd.concat([similarity.frame] * 2, ignore_index=True), check_dtype=False)
    assert joined["layer_a"].unique().tolist() == ["1.10", "1.1"], "a name is no number"
    with pytest.raises(FileNotFoundError, match="There is no file"):
        Similarity.from_csv(tmp_path / "none.csv")


def pair(layers: dict[str, np.ndarray], method: str, **options: Any) -> pd.Series:
    """The row of x against y."""
    frame = compare(probes.from_arrays(layers), method=method, progress=False, **options).frame
    return frame[(frame["layer_a"] == "x") & (frame["layer_b"] == "y")].iloc[0]


@pytest.mark.parametrize("method", ["cka", "cka_biased", "rsa"])
def test_jackknife_errors_agree_with_recomputation_without_each_group(layers: dict[str, np.ndarray], method: str) -> None:
    ids = np.arange(60)
    place = np.empty(60, int)
    place[np.argsort(hashed(ids, JACKKNIFE_SEED))] = ids
    skipped = []
    for group in range(10):
        others = place % 10 != group
        skipped.append(value({name: x[others] for name, x in layers.items()}, method))
    row = pair(layers, method)
    expected = jackknife(row["value"], skipped, [6] * 10) * stats.t.ppf(0.975, 9) / stats.norm.ppf(0.975)
    assert row["se"] == pytest.approx(expected, rel=1e-6)
    assert np.isnan(pair(layers, method, groups=0)["se"])


@pytest.mark.parametrize("method", ["cca", "procrustes"])
def test_influence_errors_are_derivatives_by_sample_weights(layers: dict[str, np.ndarray], method: str) -> None:
    """dv_i against finite differences of v in the weight w of sample i, with sqrt(w) on centred rows."""
    x, y = layers["x"], layers["y"]
    n, step = 60, 1e-5

    def weighted(w: np.ndarray) -> float:
        a, b = (np.sqrt(w)[:, None] * (z - w @ z / w.sum()) for z in (x, y))
        if method == "procrustes":
            return float(1 - np.linalg.norm(a.T @ b, "nuc") / np.linalg.norm(a) / np.linalg.norm(b))
        q, p = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
        return float(np.linalg.svd(q.T @ p, compute_uv=False).mean())

    slopes = [(weighted(np.ones(n) + step * unit) - weighted(np.ones(n) - step * unit)) / (2 * step) for unit in np.eye(n)]
    expected = np.sqrt(n / (n - 1) * np.square(slopes).sum())
    assert pair(layers, method)["se"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_pairings_agree_with_shuffled_rows(layers: dict[str, np.ndarray], method: str) -> None:
    orders = [np.random.default_rng([3, draw]).permutation(60) for draw in range(5)]
    ids = np.argsort(hashed(np.arange(60), SUBSAMPLE_SEED))  # the order in which samples are processed
    draws = []
    for order in orders:
        permuted = np.empty_like(layers["y"])
        permuted[ids] = layers["y"][ids[order]]
        draws.append(value(layers | {"y": permuted}, method))
    row = pair(layers, method, null=5, seed=3, groups=0)
    assert row["null"] == pytest.approx(np.mean(draws), rel=1e-9)
    assert row["null_sd"] == pytest.approx(np.std(draws, ddof=1), rel=1e-7)
    assert row["tail"] == ("down" if method == "procrustes" else "up")
    assert row["p"] == 1 / 6
    two = compare(*(probes.from_arrays({name: layers[name]}) for name in "xy"), method=method, null=5, seed=3, progress=False)
    assert two.frame["null"].item() == pytest.approx(row["null"], rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "d"), [(12, 3), (12, 30), (40, 8)])
def test_the_rate_of_false_positives_is_nominal(method: str, n: int, d: int) -> None:
    """Pairs of unrelated layers of one file: P(p <= 0.2) = 0.2 with 9 pairings, up to 4 standard errors."""
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        source = probes.from_arrays({name: rng.standard_t(4, size=(n, d)) for name in "abcd"})
        frame = compare(source, method=method, null=9, seed=seed, groups=0, progress=False).frame
        p += frame[frame["layer_a"] < frame["layer_b"]]["p"].tolist()
    if method in ("cca", "svcca") and d >= n:  # nearly all pairings give the same value
        assert np.isnan(p).mean() > (0.5 if method == "svcca" else 0.99)
        return
    assert np.isfinite(p).all()
    hits = np.mean(np.array(p) <= 0.2)
    assert abs(hits - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(p)) * 1.5  # the six pairs of a file share layers


def test_values_that_no_pairing_changes_have_no_p(rng: np.random.Generator) -> None:
    wide = {"x": rng.normal(size=(20, 30)), "y": rng.normal(size=(20, 30))}
    row = pair(wide, "cca", null=9)
    assert np.isnan(row["p"])
    assert "there is no test" in row["note"]


def test_similar_layers_have_small_p_values(layers: dict[str, np.ndarray], tmp_path: Path) -> None:
    for method in METHODS:
        similarity = compare(probes.from_arrays(layers), method=method, null=19, progress=False)
        frame = similarity.frame.set_index(["layer_a", "layer_b"])
        assert frame["p"]["x", "y"] == frame["p"]["y", "x"] == 1 / 20
        assert frame["se"]["x", "y"] > 0
        assert frame["se"]["x", "x"] < 1e-6 or method == "svcca"
        similarity.to_csv(tmp_path / "s.csv")
        pd.testing.assert_frame_equal(Similarity.from_csv(tmp_path / "s.csv").frame, similarity.frame, check_dtype=False)
    old = similarity.frame.drop(columns=["se", "null", "null_sd", "p", "tail"])
    old.to_csv(tmp_path / "old.csv", index=False)
    assert Similarity.from_csv(tmp_path / "old.csv").frame["p"].isna().all()


def test_samples_of_equal_id_and_different_labels_are_refused(layers: dict[str, np.ndarray]) -> None:
    """Regression: the same samples in another order, numbered by position, had a CKA of 0.016 with themselves."""
    labels, order = np.arange(60) % 7, np.random.default_rng(0).permutation(60)
    first = probes.from_arrays(layers, labels=labels)
    shuffled = {name: rows[order] for name, rows in layers.items()}
    with pytest.raises(DataError, match=r"of 60 samples of equal id have another label"):
        compare(first, probes.from_arrays(shuffled, labels=labels[order]), progress=False)
    forced = compare(first, probes.from_arrays(shuffled, labels=labels[order]), same_samples=True, progress=False)
    assert np.abs(np.diag(forced.matrix())).max() < 0.5
    compare(first, probes.from_arrays(shuffled, labels=labels[order], ids=order), progress=False)


@pytest.mark.parametrize("method", METHODS)
def test_a_non_finite_layer_does_not_stop_other_pairs(layers: dict[str, np.ndarray], method: str) -> None:
    bad = {"x": layers["x"], "y": layers["y"].copy(), "z": layers["z"]}
    bad["y"][[7, 9]] = np.nan
    options: dict[str, Any] = {"method": method, "progress": False, "null": 2}
    with pytest.warns(
        LeftOutWarning, match="1 layer could not be compared, 'the arrays, y': Layer 'y' of the arrays holds NaN"
    ):
        result = compare(probes.from_arrays(bad), **options)
    without_y = compare(probes.from_arrays(layers), layers="!y", **options)
    with_y = (result.frame[["layer_a", "layer_b"]] == "y").any(axis=1)
    pd.testing.assert_frame_equal(result.frame[~with_y].reset_index(drop=True), without_y.frame.assign(
        order_a=result.frame[~with_y]["order_a"].to_numpy(), order_b=result.frame[~with_y]["order_b"].to_numpy()
    ))  # fmt: skip
    pairs = result.frame[with_y]
    assert pairs["value"].isna().all()
    assert pairs["note"].str.contains("holds NaN or inf in 2 of 60 samples, the first of them id 7").all()
    with pytest.raises(DataError, match="Layer 'y' of the arrays holds NaN or inf"):
        compare(probes.from_arrays(bad), strict=True, **options)
