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
    return [np.flatnonzero(cluster == one).tolist() for one in range(cluster.max() + 1)]


def test_t1_fields_are_what_silencing_gives_and_add_up_to_the_mean_logits() -> None:
    rng = np.random.default_rng(1)
    x, y, w = rng.normal(size=(200, 5, 4)), np.arange(200) % 7, rng.normal(size=(7, 5, 4))
    means = np.stack([x[y == label].mean(0) for label in range(7)])
    total = np.zeros((7, 7))
    for one in range(5):
        silent = np.zeros_like(w)
        silent[:, one] = w[:, one]
        logits = x.reshape(200, -1) @ silent.reshape(7, -1).T
        brute = np.stack([logits[y == label].mean(0) for label in range(7)])
        np.testing.assert_allclose(field_of(means, w, one, gauge="none"), brute, atol=1e-12)
        total += brute
    logits = x.reshape(200, -1) @ w.reshape(7, -1).T
    np.testing.assert_allclose(total, np.stack([logits[y == label].mean(0) for label in range(7)]), atol=1e-12)


def same_statistics(a: FilterClusters, b: FilterClusters) -> None:
    for name in ("cluster", "clusters", "served", "noise", "noise_served", "internal", "votes", "votes_internal"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_t3_scales_of_filters_change_no_count_and_no_unit_field() -> None:
    means, weights = layer()
    scales = np.random.default_rng(2).uniform(0.1, 1e6, (1, 9, 1))
    before, after = clusters_of(means, weights), clusters_of(means * scales, weights / np.sqrt(scales))
    same_statistics(before, after)
    for name in ("inside", "outside", "rest"):
        np.testing.assert_allclose(before.fields[f"unit {name}"], after.fields[f"unit {name}"], atol=1e-10)
        assert not np.allclose(before.fields[f"raw {name}"], after.fields[f"raw {name}"])


def test_t4_renaming_labels_renames_what_is_served_and_the_votes() -> None:
    means, weights = layer()
    turn = np.random.default_rng(3).permutation(12)
    before, after = clusters_of(means, weights), clusters_of(means[turn], weights[turn])
    np.testing.assert_array_equal(before.serves[:, turn], after.serves)
    np.testing.assert_array_equal(before.votes[np.ix_(turn, turn)], after.votes)


@given(arrays(bool, (3, 7, 7)))
def test_t5_clusters_are_those_of_the_reference(above: np.ndarray) -> None:
    found = first_fit(above)
    for one, boolean in zip(found, above, strict=True):
        assert lists(one) == greedy_clusters(boolean)
        for cluster in lists(one):
            assert boolean[np.ix_(cluster, cluster)].all()
        assert (one >= 0).sum() == np.trace(boolean)


def test_t5_both_orders_of_the_example() -> None:
    example = np.eye(4, dtype=bool)
    for a, b in ((0, 1), (1, 2), (1, 3), (2, 3)):
        example[[a, b], [b, a]] = True
    assert lists(first_fit(example[None])[0]) == [[0, 1], [2, 3]]
    assert lists(first_fit(example[None], order="degree")[0]) == [[1, 2, 3], [0]]
    ones = int(example.sum())
    assert [ones - sum(len(c) ** 2 for c in lists(first_fit(example[None], order=o)[0])) for o in ("label", "degree")] == [4, 2]  # type: ignore[arg-type]


@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0.05, 0.95))
def test_t6_identities(seed: int, p: int, theta: float) -> None:
    means, weights = layer(8, 6, p, seed)
    found = clusters_of(means, weights, ClusterOptions(theta=theta))
    for one in range(6):
        field = field_of(means, weights, one)
        above = field > theta * field.max()
        sizes = [len(cluster) for cluster in greedy_clusters(above)]
        assert found.served[one] == sum(sizes) == np.trace(above)
        assert found.clusters[one] == len(sizes)
        assert found.noise[one] == above.sum() - sum(size**2 for size in sizes) >= 0
        assert found.internal[one] == sum(size * (size - 1) for size in sizes)
        columns = np.diagonal(above)
        assert found.noise_served[one] == above[:, columns].sum() - sum(size**2 for size in sizes)
    said = found.summary()
    if found.clusters.any():
        assert said["clusters"] * said["cluster_size"] == pytest.approx(said["labels"])
        assert found.votes.sum() - np.trace(found.votes) == found.internal.sum() + found.noise.sum()
        off = found.votes.sum() - np.trace(found.votes)
        expected = np.diagonal(found.votes).mean() / (off / (8 * 7)) if off else np.inf
        assert said["snr_pair"] == pytest.approx(expected)
        every = found.summary(count_empty=True)
        assert every["labels"] == pytest.approx(found.served.sum() / 6)
        assert every["cluster_size"] == said["cluster_size"]


def test_t7_a_higher_threshold_serves_fewer() -> None:
    means, weights = layer(20, 30, 2)
    found = [clusters_of(means, weights, ClusterOptions(theta=theta)) for theta in (0.1, 0.3, 0.5, 0.9)]
    for low, high in pairwise(found):
        assert (low.serves >= high.serves).all()
        assert low.served.sum() >= high.served.sum()
    assert all((one.votes.sum() >= len(one.maximum)) for one in found)  # the largest entry is always above


def test_t8_edges() -> None:
    k = 4
    means, weights = np.zeros((k, 5, 1)), np.ones((k, 5, 1))
    means[:, 1] = 1.0
    weights[:, 1] = -1.0  # all negative
    means[0, 2] = weights[1, 2, 0] = 5.0  # the largest entry off the diagonal, and nothing on it
    weights[[0, 2, 3], 2] = 0.0
    means[:, 3, 0], weights[:, 3, 0] = (1.0, 0.3, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)  # exactly at the threshold: not above
    means[0, 4] = 1.0
    weights[:, 4, 0] = (1.0, 0.0, 0.0, 0.0)
    found = clusters_of(means, weights, ClusterOptions(gauge="none"))
    assert found.maximum[:2].tolist() == [0.0, 0.0]
    assert found.clusters.tolist() == [0, 0, 0, 1, 1]
    assert found.noise.tolist() == [0, 0, 1, 0, 0]
    assert found.fragile == 1
    said = found.summary()
    assert said["empty"] == 3
    assert said["noise"] == 0
    assert found.summary(count_empty=True)["noise"] == pytest.approx(1 / 5)
    assert np.isnan(clusters_of(means[:, :2], weights[:, :2], ClusterOptions(gauge="none")).summary()["snr_pair"])


@pytest.mark.parametrize("k", [2, 5])
def test_t8_one_filter(k: int) -> None:
    means = np.eye(k)[:, :1, None]
    found = clusters_of(means, means)
    assert found.summary()["clusters"] == 1


def planted(samples: bool) -> Arrays:
    """T9: K=30, F=64, two clusters of three labels, two noise inputs and three noise outputs per filter."""
    rng = np.random.default_rng(4)
    k, f, size, inner, outer = 30, 64, 3, 2, 3
    means, weights = np.zeros((k, f, 2)), np.full((k, f, 2), -0.2)
    for one in range(f):
        chosen = rng.permutation(k)
        for place in range(2):
            labels = chosen[place * size : (place + 1) * size]
            means[labels, one, place] = weights[labels, one, place] = 1.0
        means[chosen[6 : 6 + inner], one, 0] = 0.5
        weights[chosen[8 : 8 + outer], one, 1] = 0.5
    if samples:
        means = np.mean(means + 0.2 * rng.normal(size=(40, *means.shape)), axis=0)
    return means, weights


@pytest.mark.parametrize("samples", [False, True])
def test_t9_a_planted_layer_is_found(samples: bool) -> None:
    found = clusters_of(*planted(samples), ClusterOptions(gauge="none"))
    assert set(found.clusters.tolist()) == {2}
    assert set(found.served.tolist()) == {6}
    assert set(found.noise.tolist()) == {15}
    assert set(found.noise_served.tolist()) == {6}
    assert set(found.internal.tolist()) == {12}
    said = found.summary()
    assert said["cluster_size"] == 3
    assert said["snr_pair"] == pytest.approx(29 * 6 / 27)
    assert said["kept"] == pytest.approx(0.2)


def test_t10_the_cyclic_design() -> None:
    k = 20
    field = np.zeros((k, k, k))
    for one in range(k):
        block = (one + np.array([0, 1, 4, 6])) % k
        field[one][np.ix_(block, block)] = 1
        field[one, (one + 10) % k, [(one + 1) % k, (one + 13) % k]] = 1
    # Any field is a sum over K places of label times output.
    means = np.broadcast_to(np.eye(k)[:, None], (k, k, k))
    weights = field.transpose(2, 0, 1)
    found = clusters_of(means, weights, ClusterOptions(gauge="none"))
    said = found.summary()
    assert np.diagonal(found.votes).tolist() == [4] * k
    assert (found.votes.sum() - 80) / (k * (k - 1)) == pytest.approx(14 / 19)
    assert said["snr_pair"] == pytest.approx(5.42857, abs=1e-5)
    assert (said["noise"], said["noise_served"]) == (2, 1)
    assert said["orphans"] == said["signal_cv"] == 0


def test_t11_twice_the_filters_is_twice_the_signal_and_the_same_ratio() -> None:
    means, weights = layer()
    one, two = (clusters_of(np.tile(means, (1, times, 1)), np.tile(weights, (1, times, 1))).summary() for times in (1, 2))
    assert two["signal"] == pytest.approx(2 * one["signal"])
    for name in ("snr_pair", "snr_total", "snr_field_unit", "snr_field_raw", "clusters", "noise"):
        assert two[name] == pytest.approx(one[name])


def test_t12_one_place_forces_noise_between_clusters() -> None:
    means, weights = layer(15, 40, 1, seed=5)
    found = clusters_of(means, weights, ClusterOptions(gauge="none"))
    for cluster, noise in zip(found.cluster, found.noise, strict=True):
        served = np.flatnonzero(cluster >= 0)
        split = sum(cluster[i] != cluster[j] for at, i in enumerate(served) for j in served[at + 1 :])
        assert noise >= split
    for one in range(40):
        alpha, omega = means[:, one, 0] / means[:, one].max(), weights[:, one, 0] / weights[:, one].max()
        for cluster in lists(found.cluster[one]):
            assert alpha[cluster].min() * omega[cluster].min() > 0.3
    signed = np.array([1.0, -1.0, 0.0])[:, None, None]
    apart = clusters_of(signed, signed, ClusterOptions(gauge="none"))
    assert lists(apart.cluster[0]) == [[0], [1]]
    assert apart.noise[0] == 0


def test_t14_the_gauge() -> None:
    means, weights = layer()
    shifted = weights + np.random.default_rng(6).normal(size=(1, 9, 3))
    same_statistics(clusters_of(means, weights), clusters_of(means, shifted))
    assert np.abs(field_of(means, weights, 2).sum(1)).max() < 1e-12
    assert clusters_of(means, weights).maximum.min() >= 0
    plain = ClusterOptions(gauge="none")
    assert not np.array_equal(clusters_of(means, weights, plain).votes, clusters_of(means, shifted, plain).votes)


def test_t15_the_mask_of_a_head_is_what_is_served() -> None:
    means, weights = layer()
    found = [clusters_of(means, weights, ClusterOptions(order=order)) for order in ("label", "degree")]
    np.testing.assert_array_equal(found[0].serves, found[1].serves)
    for one in range(9):
        field = field_of(means, weights, one)
        np.testing.assert_array_equal(found[0].serves[one], np.diagonal(field) > 0.3 * field.max())
    assert found[0].summary()["kept"] == pytest.approx(found[0].served.sum() / (9 * 12))


def test_t17_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    means, weights = layer(10, 23, 2)
    whole = clusters_of(means, weights)
    monkeypatch.setattr("repanalysis.heads.clusters._CHUNK_BYTES", 8 * 10 * 10 * 4)
    parts = clusters_of(means, weights)
    same_statistics(whole, parts)
    for name, value in whole.fields.items():
        np.testing.assert_allclose(parts.fields[name], value, atol=1e-12)


def test_t18_the_parts_of_the_fields_are_the_mean_logits() -> None:
    means, weights = layer()
    found = clusters_of(means, weights)
    total = sum(found.fields[f"raw {part}"] for part in ("inside", "outside", "rest"))
    centred = weights - weights.mean(0)
    np.testing.assert_allclose(total, means.reshape(12, -1) @ centred.reshape(12, -1).T, atol=1e-10)
    inside = np.zeros((12, 12))
    for one in range(9):
        field = field_of(means, weights, one)
        for cluster in lists(found.cluster[one]):
            inside[np.ix_(cluster, cluster)] += field[np.ix_(cluster, cluster)] / field.max()
    np.testing.assert_allclose(found.fields["unit inside"], inside, atol=1e-12)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_number_of_a_layer_is_that_of_its_definition(seed: int, p: int) -> None:
    means, weights = layer(7, 11, p, seed)
    found = clusters_of(means, weights).summary()
    for metric, expected in summary(means, weights).items():
        assert found[METRIC_OF.get(metric, "places")] == pytest.approx(expected, rel=1e-9), metric


def test_dispersion_is_1_for_labels_drawn_at_random_and_0_for_balanced_ones() -> None:
    """Filters whose field is a diagonal serve just those labels: the variance of S over labels against F q (1 - q)."""

    def dispersion(served: np.ndarray) -> float:
        k = served.shape[1]
        weights = np.eye(k)[:, None] * served  # (outputs, filters, places)
        means = np.broadcast_to(np.eye(k)[:, None], weights.shape)
        found = clusters_of(means, weights, ClusterOptions(gauge="none"))
        np.testing.assert_array_equal(found.serves, served > 0)
        return found.summary()["dispersion"]

    counts = np.array([6, 3, 2, 1])  # variance 3.5 about 3, and half of all 24 pairs are served: 6 / 4
    assert dispersion((np.arange(6)[:, None] < counts) * 1.0) == pytest.approx(3.5 / 1.5)
    assert dispersion(np.eye(5)) == 0.0
    rng = np.random.default_rng(0)
    drawn = [dispersion((rng.random((40, 30)) < 0.3) * 1.0) for _ in range(60)]
    assert np.mean(drawn) == pytest.approx(1.0, abs=4 * np.std(drawn) / np.sqrt(60))


def test_clusters_are_blocks_on_the_diagonal_when_displayed() -> None:
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
def test_what_does_not_fit_is_one_sentence(change: dict[str, object], error: type[Exception], sentence: str) -> None:
    values: dict = {"means": np.ones((3, 2, 1)), "weights": np.ones((3, 2, 1))} | change
    with pytest.raises(error, match=sentence):
        clusters_of(values.pop("means"), values.pop("weights"), ClusterOptions(**values))


def test_random_labels_keep_the_share_of_pairs_that_they_should() -> None:
    """T15: two filters with s of K labels each share one with probability 1 - C(K-s, s) / C(K, s)."""
    rng = np.random.default_rng(7)
    masks = np.stack([np.isin(np.arange(100), rng.choice(100, 5, replace=False)) for _ in range(600)])
    shared = (masks[:300].astype(int) @ masks[300:].T.astype(int)) > 0
    assert 1 - comb(95, 5) / comb(100, 5) == pytest.approx(0.2304, abs=5e-5)
    assert shared.mean() == pytest.approx(0.2304, abs=0.01)
