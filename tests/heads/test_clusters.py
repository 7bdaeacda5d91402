"""Filter clusters against the definition in loops, their invariances, closed forms and edges."""

from __future__ import annotations

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probes.errors import DataError, UsageError
from repanalysis.analyses.filters.measures import METRIC_OF
from repanalysis.heads.clusters import ClusterOptions, FilterClusters, clusters_of, display_order, field_of, first_fit
from tests.heads.plain import greedy_clusters, summary

Arrays = tuple[np.ndarray, np.ndarray]


def layer(k: int = 12, f: int = 9, p: int = 3, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(size=(k, f, p)), 0), rng.normal(size=(k, f, p))


def lists(cluster: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(cluster == index).tolist() for index in range(cluster.max() + 1)]


def test_t1_fields_are_the_effect_of_silencing_filters_and_sum_to_the_mean_logits() -> None:
    rng = np.random.default_rng(1)
    x, y, w = rng.normal(size=(200, 5, 4)), np.arange(200) % 7, rng.normal(size=(7, 5, 4))
    means = np.stack([x[y == label].mean(0) for label in range(7)])
    total = np.zeros((7, 7))
    for index in range(5):
        silent = np.zeros_like(w)
        silent[:, index] = w[:, index]
        logits = x.reshape(200, -1) @ silent.reshape(7, -1).T
        brute = np.stack([logits[y == label].mean(0) for label in range(7)])
        np.testing.assert_allclose(field_of(means, w, index, gauge="none"), brute, atol=1e-12)
        total += brute
    logits = x.reshape(200, -1) @ w.reshape(7, -1).T
    np.testing.assert_allclose(total, np.stack([logits[y == label].mean(0) for label in range(7)]), atol=1e-12)


def same_statistics(a: FilterClusters, b: FilterClusters) -> None:
    for name in ("cluster", "clusters", "served", "noise", "noise_served", "internal", "votes", "votes_internal"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_t3_scaling_filters_changes_no_count_and_no_unit_field() -> None:
    means, weights = layer()
    scales = np.random.default_rng(2).uniform(0.1, 1e6, (1, 9, 1))
    before, after = clusters_of(means, weights), clusters_of(means * scales, weights / np.sqrt(scales))
    same_statistics(before, after)
    for name in ("inside", "outside", "rest"):
        np.testing.assert_allclose(before.fields[f"unit {name}"], after.fields[f"unit {name}"], atol=1e-10)
        assert not np.allclose(before.fields[f"raw {name}"], after.fields[f"raw {name}"])


def test_t4_permuting_labels_permutes_served_labels_and_votes() -> None:
    means, weights = layer()
    turn = np.random.default_rng(3).permutation(12)
    before, after = clusters_of(means, weights), clusters_of(means[turn], weights[turn])
    np.testing.assert_array_equal(before.serves[:, turn], after.serves)
    np.testing.assert_array_equal(before.votes[np.ix_(turn, turn)], after.votes)


@given(arrays(bool, (3, 7, 7)))
def test_t5_clusters_agree_with_the_reference(above: np.ndarray) -> None:
    assignments = first_fit(above)
    for assignment, boolean in zip(assignments, above, strict=True):
        assert lists(assignment) == greedy_clusters(boolean)
        for cluster in lists(assignment):
            assert boolean[np.ix_(cluster, cluster)].all()
        assert (assignment >= 0).sum() == np.trace(boolean)


def test_t5_clusters_of_the_example_in_both_orders() -> None:
    example = np.eye(4, dtype=bool)
    for a, b in ((0, 1), (1, 2), (1, 3), (2, 3)):
        example[[a, b], [b, a]] = True
    assert lists(first_fit(example[None])[0]) == [[0, 1], [2, 3]]
    assert lists(first_fit(example[None], order="degree")[0]) == [[1, 2, 3], [0]]
    ones = int(example.sum())
    assert [ones - sum(len(c) ** 2 for c in lists(first_fit(example[None], order=o)[0])) for o in ("label", "degree")] == [4, 2]  # type: ignore[arg-type]


@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0.05, 0.95))
def test_t6_identities_of_counts(seed: int, p: int, theta: float) -> None:
    means, weights = layer(8, 6, p, seed)
    result = clusters_of(means, weights, ClusterOptions(theta=theta))
    for index in range(6):
        field = field_of(means, weights, index)
        above = field > theta * field.max()
        sizes = [len(cluster) for cluster in greedy_clusters(above)]
        assert result.served[index] == sum(sizes) == np.trace(above)
        assert result.clusters[index] == len(sizes)
        assert result.noise[index] == above.sum() - sum(size**2 for size in sizes) >= 0
        assert result.internal[index] == sum(size * (size - 1) for size in sizes)
        columns = np.diagonal(above)
        assert result.noise_served[index] == above[:, columns].sum() - sum(size**2 for size in sizes)
    summary = result.summary()
    if result.clusters.any():
        assert summary["clusters"] * summary["cluster_size"] == pytest.approx(summary["labels"])
        assert result.votes.sum() - np.trace(result.votes) == result.internal.sum() + result.noise.sum()
        off = result.votes.sum() - np.trace(result.votes)
        expected = np.diagonal(result.votes).mean() / (off / (8 * 7)) if off else np.inf
        assert summary["snr_pair"] == pytest.approx(expected)
        with_empty = result.summary(count_empty=True)
        assert with_empty["labels"] == pytest.approx(result.served.sum() / 6)
        assert with_empty["cluster_size"] == summary["cluster_size"]


def test_t7_a_higher_threshold_serves_fewer_labels() -> None:
    means, weights = layer(20, 30, 2)
    results = [clusters_of(means, weights, ClusterOptions(theta=theta)) for theta in (0.1, 0.3, 0.5, 0.9)]
    for low, high in pairwise(results):
        assert (low.serves >= high.serves).all()
        assert low.served.sum() >= high.served.sum()
    assert all((result.votes.sum() >= len(result.maximum)) for result in results)  # the largest entry is always above


def test_t8_edge_cases() -> None:
    k = 4
    means, weights = np.zeros((k, 5, 1)), np.ones((k, 5, 1))
    means[:, 1] = 1.0
    weights[:, 1] = -1.0  # all negative
    means[0, 2] = weights[1, 2, 0] = 5.0  # the largest entry off the diagonal, none on it
    weights[[0, 2, 3], 2] = 0.0
    means[:, 3, 0], weights[:, 3, 0] = (1.0, 0.3, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)  # exactly at the threshold: not above
    means[0, 4] = 1.0
    weights[:, 4, 0] = (1.0, 0.0, 0.0, 0.0)
    result = clusters_of(means, weights, ClusterOptions(gauge="none"))
    assert result.maximum[:2].tolist() == [0.0, 0.0]
    assert result.clusters.tolist() == [0, 0, 0, 1, 1]
    assert result.noise.tolist() == [0, 0, 1, 0, 0]
    assert result.fragile == 1
    summary = result.summary()
    assert summary["empty"] == 3
    assert summary["noise"] == 0
    assert result.summary(count_empty=True)["noise"] == pytest.approx(1 / 5)
    assert np.isnan(clusters_of(means[:, :2], weights[:, :2], ClusterOptions(gauge="none")).summary()["snr_pair"])


@pytest.mark.parametrize("k", [2, 5])
def test_t8_one_filter(k: int) -> None:
    means = np.eye(k)[:, :1, None]
    result = clusters_of(means, means)
    assert result.summary()["clusters"] == 1


def planted(samples: bool) -> Arrays:
    """T9: K=30, F=64, two clusters of three labels, two noise inputs and three noise outputs per filter."""
    rng = np.random.default_rng(4)
    k, f, size, inner, outer = 30, 64, 3, 2, 3
    means, weights = np.zeros((k, f, 2)), np.full((k, f, 2), -0.2)
    for index in range(f):
        permuted = rng.permutation(k)
        for place in range(2):
            labels = permuted[place * size : (place + 1) * size]
            means[labels, index, place] = weights[labels, index, place] = 1.0
        means[permuted[6 : 6 + inner], index, 0] = 0.5
        weights[permuted[8 : 8 + outer], index, 1] = 0.5
    if samples:
        means = np.mean(means + 0.2 * rng.normal(size=(40, *means.shape)), axis=0)
    return means, weights


@pytest.mark.parametrize("samples", [False, True])
def test_t9_clusters_of_a_planted_layer_are_recovered(samples: bool) -> None:
    result = clusters_of(*planted(samples), ClusterOptions(gauge="none"))
    assert set(result.clusters.tolist()) == {2}
    assert set(result.served.tolist()) == {6}
    assert set(result.noise.tolist()) == {15}
    assert set(result.noise_served.tolist()) == {6}
    assert set(result.internal.tolist()) == {12}
    summary = result.summary()
    assert summary["cluster_size"] == 3
    assert summary["snr_pair"] == pytest.approx(29 * 6 / 27)
    assert summary["kept"] == pytest.approx(0.2)


def test_t10_the_cyclic_design() -> None:
    k = 20
    field = np.zeros((k, k, k))
    for index in range(k):
        block = (index + np.array([0, 1, 4, 6])) % k
        field[index][np.ix_(block, block)] = 1
        field[index, (index + 10) % k, [(index + 1) % k, (index + 13) % k]] = 1
    # Any field is a sum over K positions of label times output.
    means = np.broadcast_to(np.eye(k)[:, None], (k, k, k))
    weights = field.transpose(2, 0, 1)
    result = clusters_of(means, weights, ClusterOptions(gauge="none"))
    summary = result.summary()
    assert np.diagonal(result.votes).tolist() == [4] * k
    assert (result.votes.sum() - 80) / (k * (k - 1)) == pytest.approx(14 / 19)
    assert summary["snr_pair"] == pytest.approx(5.42857, abs=1e-5)
    assert (summary["noise"], summary["noise_served"]) == (2, 1)
    assert summary["orphans"] == summary["signal_cv"] == 0


def test_t11_twice_the_filters_doubles_the_signal_and_keeps_the_ratios() -> None:
    means, weights = layer()
    once, twice = (clusters_of(np.tile(means, (1, times, 1)), np.tile(weights, (1, times, 1))).summary() for times in (1, 2))
    assert twice["signal"] == pytest.approx(2 * once["signal"])
    for name in ("snr_pair", "snr_total", "snr_field_unit", "snr_field_raw", "clusters", "noise"):
        assert twice[name] == pytest.approx(once[name])


def test_t12_a_single_position_forces_noise_between_clusters() -> None:
    means, weights = layer(15, 40, 1, seed=5)
    result = clusters_of(means, weights, ClusterOptions(gauge="none"))
    for cluster, noise in zip(result.cluster, result.noise, strict=True):
        served = np.flatnonzero(cluster >= 0)
        split = sum(cluster[i] != cluster[j] for at, i in enumerate(served) for j in served[at + 1 :])
        assert noise >= split
    for index in range(40):
        alpha, omega = means[:, index, 0] / means[:, index].max(), weights[:, index, 0] / weights[:, index].max()
        for cluster in lists(result.cluster[index]):
            assert alpha[cluster].min() * omega[cluster].min() > 0.3
    signed = np.array([1.0, -1.0, 0.0])[:, None, None]
    separate = clusters_of(signed, signed, ClusterOptions(gauge="none"))
    assert lists(separate.cluster[0]) == [[0], [1]]
    assert separate.noise[0] == 0


def test_t14_the_gauge_removes_shifts_of_weights() -> None:
    means, weights = layer()
    shifted = weights + np.random.default_rng(6).normal(size=(1, 9, 3))
    same_statistics(clusters_of(means, weights), clusters_of(means, shifted))
    assert np.abs(field_of(means, weights, 2).sum(1)).max() < 1e-12
    assert clusters_of(means, weights).maximum.min() >= 0
    plain = ClusterOptions(gauge="none")
    assert not np.array_equal(clusters_of(means, weights, plain).votes, clusters_of(means, shifted, plain).votes)


def test_t15_the_mask_of_a_head_is_the_set_of_served_labels() -> None:
    means, weights = layer()
    results = [clusters_of(means, weights, ClusterOptions(order=order)) for order in ("label", "degree")]
    np.testing.assert_array_equal(results[0].serves, results[1].serves)
    for index in range(9):
        field = field_of(means, weights, index)
        np.testing.assert_array_equal(results[0].serves[index], np.diagonal(field) > 0.3 * field.max())
    assert results[0].summary()["kept"] == pytest.approx(results[0].served.sum() / (9 * 12))


def test_t17_results_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    means, weights = layer(10, 23, 2)
    unchunked = clusters_of(means, weights)
    monkeypatch.setattr("repanalysis.heads.clusters._CHUNK_BYTES", 8 * 10 * 10 * 4)
    parts = clusters_of(means, weights)
    same_statistics(unchunked, parts)
    for name, value in unchunked.fields.items():
        np.testing.assert_allclose(parts.fields[name], value, atol=1e-12)


def test_t18_the_parts_of_the_fields_sum_to_the_mean_logits() -> None:
    means, weights = layer()
    result = clusters_of(means, weights)
    total = sum(result.fields[f"raw {part}"] for part in ("inside", "outside", "rest"))
    centred = weights - weights.mean(0)
    np.testing.assert_allclose(total, means.reshape(12, -1) @ centred.reshape(12, -1).T, atol=1e-10)
    inside = np.zeros((12, 12))
    for index in range(9):
        field = field_of(means, weights, index)
        for cluster in lists(result.cluster[index]):
            inside[np.ix_(cluster, cluster)] += field[np.ix_(cluster, cluster)] / field.max()
    np.testing.assert_allclose(result.fields["unit inside"], inside, atol=1e-12)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_summary_of_a_layer_agrees_with_the_definitions(seed: int, p: int) -> None:
    means, weights = layer(7, 11, p, seed)
    computed = clusters_of(means, weights).summary()
    for metric, expected in summary(means, weights).items():
        assert computed[METRIC_OF.get(metric, "places")] == pytest.approx(expected, rel=1e-9), metric


def test_dispersion_is_1_for_labels_drawn_at_random_and_0_for_balanced_ones() -> None:
    """Filters with a diagonal field serve exactly those labels: the variance of S over labels against F q (1 - q)."""

    def dispersion(served: np.ndarray) -> float:
        k = served.shape[1]
        weights = np.eye(k)[:, None] * served  # (outputs, filters, places)
        means = np.broadcast_to(np.eye(k)[:, None], weights.shape)
        result = clusters_of(means, weights, ClusterOptions(gauge="none"))
        np.testing.assert_array_equal(result.serves, served > 0)
        return result.summary()["dispersion"]

    counts = np.array([6, 3, 2, 1])  # variance 3.5 about 3, and half of all 24 pairs are served: 6 / 4
    assert dispersion((np.arange(6)[:, None] < counts) * 1.0) == pytest.approx(3.5 / 1.5)
    assert dispersion(np.eye(5)) == 0.0
    rng = np.random.default_rng(0)
    values = [dispersion((rng.random((40, 30)) < 0.3) * 1.0) for _ in range(60)]
    assert np.mean(values) == pytest.approx(1.0, abs=4 * np.std(values) / np.sqrt(60))


def test_display_order_puts_clusters_in_blocks_on_the_diagonal() -> None:
    cluster = np.array([2, -1, 0, 1, 1, 1, 0])
    assert display_order(cluster).tolist() == [3, 4, 5, 2, 6, 0, 1]


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"theta": 1.0}, UsageError, "between 0 and 1"),
        ({"order": "size"}, UsageError, "Unknown order"),
        ({"gauge": "centre"}, UsageError, "Did you mean 'center'"),
        ({"means": np.ones((1, 2, 1)), "weights": np.ones((1, 2, 1))}, DataError, "at least two labels"),
        ({"means": np.ones((3, 2, 2))}, UsageError, "labels x filters x places"),
        ({"means": np.full((3, 2, 1), np.nan)}, DataError, "NaN or infinite"),
    ],
)
def test_invalid_input_has_a_one_sentence_error(change: dict[str, object], error: type[Exception], sentence: str) -> None:
    values: dict = {"means": np.ones((3, 2, 1)), "weights": np.ones((3, 2, 1))} | change
    with pytest.raises(error, match=sentence):
        clusters_of(values.pop("means"), values.pop("weights"), ClusterOptions(**values))


def test_t15_random_labels_share_filters_at_the_expected_rate() -> None:
    """Two filters with s of K labels each share a label with probability 1 - C(K-s, s) / C(K, s)."""
    rng = np.random.default_rng(7)
    masks = np.stack([np.isin(np.arange(100), rng.choice(100, 5, replace=False)) for _ in range(600)])
    shared = (masks[:300].astype(int) @ masks[300:].T.astype(int)) > 0
    assert 1 - comb(95, 5) / comb(100, 5) == pytest.approx(0.2304, abs=5e-5)
    assert shared.mean() == pytest.approx(0.2304, abs=0.01)
