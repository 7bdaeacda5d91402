"""Filters of recorded layers: heads and measurements on different rows, pools, groups, splits, and the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import probes
from probes.errors import DataError, LeftOutWarning, UsageError
from repanalysis.analyses.filters.measures import filters, top_activating
from repanalysis.heads.clusters import field_of
from repanalysis.heads.fitting import HeadOptions
from repanalysis.table import Table
from tests.heads.plain import class_means, share_right, summary
from tests.heads.plain import head as plain_head


def planted(n: int, seed: int, k: int = 6, f: int = 12, p: int = 4, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Filters that know two labels each, at a place of its own."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = noise * np.abs(rng.normal(size=(n, f, p)))
    for one in range(f):
        for place, label in enumerate(((one % k), (one + 2) % k)):
            x[y == label, one, place] += 1.0
    return x.reshape(n, f, 2, 2), y


def sources(**test: object) -> tuple[probes.Source, probes.Source]:
    x, y = planted(240, 0)
    pooled = {"map": x, "mean": x.mean((2, 3))}
    z, t = planted(180, 1)
    other = {"map": z, "mean": z.mean((2, 3))}
    train = probes.from_arrays(pooled, ids=np.arange(240), labels=y)
    return train, probes.from_arrays(other, ids=np.arange(1000, 1180), labels=t)


def value(table: Table, layer: str, metric: str, variant: str = "") -> float:
    return float(table.select(layer=layer, metric=metric, variant=variant).frame["value"].item())


def test_what_is_planted_is_found_and_is_what_plain_arrays_give() -> None:
    train, test = sources()
    table, found = filters(train, test, progress=False)
    assert value(table, "map", "layer_accuracy") > 0.95
    assert value(table, "map", "places_per_filter") == 4
    assert value(table, "mean", "places_per_filter") == 1
    for layer, places in (("map", 4), ("mean", 1)):
        weights = plain_head(train[layer].reshape(240, -1), train.labels, 6)  # type: ignore[arg-type]
        means = class_means(test[layer].reshape(180, 12, places), test.labels, 6)  # type: ignore[arg-type]
        share = share_right(weights, test[layer].reshape(180, -1), test.labels)  # type: ignore[arg-type]
        assert value(table, layer, "layer_accuracy") == pytest.approx(share)
        for metric, expected in summary(means, weights.reshape(6, 12, places)).items():
            assert value(table, layer, metric) == pytest.approx(expected, rel=1e-3 if "field" in metric else 1e-9), metric
    served = found["map"].clusters.serves
    share = np.mean([served[one, one % 6] and served[one, (one + 2) % 6] for one in range(12)])
    assert share > 0.8
    row = table.select(layer="map", metric="labels_per_filter", variant="").frame.iloc[0]
    assert 0 < row["se"] < 1 or "no resampling changed the value" in row["note"]


def test_labels_that_are_more_frequent_count_as_much() -> None:
    """T2: the same samples again of one label change no mean."""
    train, test = sources()
    rows = np.concatenate([np.arange(180), np.flatnonzero(test.labels == 0), np.flatnonzero(test.labels == 0)])
    again = probes.from_arrays({"map": test["map"][rows]}, ids=np.arange(len(rows)) + 1000, labels=test.labels[rows])  # type: ignore[index]
    options = {"layers": "map", "bootstrap": 0, "progress": False}
    one, more = (filters(train, part, **options)[1]["map"] for part in (test, again))  # type: ignore[arg-type]
    np.testing.assert_allclose(one.means, more.means, rtol=1e-12)
    np.testing.assert_array_equal(one.clusters.cluster, more.clusters.cluster)


def test_groups_add_the_fields_of_their_nodes() -> None:
    train, test = sources()
    _, found = filters(train, test, layers="mean", groups={"mean": 3}, bootstrap=0, progress=False)
    one = found["mean"]
    assert one.weight.shape == (6, 3, 4)
    nodes = filters(train, test, layers="mean", bootstrap=0, progress=False)[1]["mean"]
    np.testing.assert_allclose(one.weight.reshape(6, 12), nodes.weight.reshape(6, 12), rtol=1e-12)
    with pytest.raises(UsageError, match="into 5 equal groups"):
        filters(train, test, layers="mean", groups={"*": 5}, progress=False)


def test_one_source_is_cut_by_its_splits_or_in_halves() -> None:
    x, y = planted(300, 2)
    whole = probes.from_arrays({"map": x}, ids=np.arange(300), labels=y)
    table, _ = filters(whole, layers="map", bootstrap=0, progress=False)
    assert 120 < table.frame["n"].iloc[0] < 180
    split = np.where(np.arange(300) < 200, "train", "test")
    parted = probes.from_arrays({"map": x}, ids=np.arange(300), labels=y, split=split)
    assert filters(parted, bootstrap=0, progress=False)[0].frame["n"].iloc[0] == 100
    with pytest.raises(UsageError, match="contain the same samples"):
        filters(whole, whole, progress=False)


def test_a_head_that_knows_nothing_is_flagged() -> None:
    rng = np.random.default_rng(0)
    parts = [
        probes.from_arrays({"noise": rng.normal(size=(200, 5))}, ids=np.arange(200) + 1000 * at, labels=np.arange(200) % 4)
        for at in (0, 1)
    ]
    table, _ = filters(*parts, progress=False)
    assert table.frame.loc[table.frame["metric"] == "snr_pair", "note"].item().startswith("uninformative")


def test_labels_of_one_part_only_are_left_out_and_named() -> None:
    train, test = sources()
    kept = np.flatnonzero(test.labels != 3)
    fewer = probes.from_arrays({"map": test["map"][kept]}, ids=test.ids[kept], labels=test.labels[kept])  # type: ignore[index]
    table, found = filters(train, fewer, layers="map", bootstrap=0, progress=False)
    assert found["map"].labels.tolist() == [0, 1, 2, 4, 5]
    assert "labels [3] are missing" in table.frame["note"].iloc[0]


def test_what_does_not_fit_is_one_sentence() -> None:
    train, test = sources()
    with pytest.raises(UsageError, match=r"No layer of .* matches 'men'. Did you mean 'mean'"):
        filters(train, test, layers="men", progress=False)
    other = probes.from_arrays({"other": test["map"]}, ids=test.ids, labels=test.labels)
    with pytest.raises(UsageError, match="share no layer; the second has other"):
        filters(train, other, progress=False)
    with pytest.raises(DataError, match="pool"):
        filters(train, test, layers="map", state_budget=1000, progress=False, strict=True)
    unlabelled = probes.from_arrays({"map": train["map"]}, ids=np.arange(240))
    with pytest.raises(DataError, match="no labels"):
        filters(unlabelled, test, progress=False)
    one = probes.from_arrays({"map": test["map"][:5]}, ids=test.ids[:5], labels=np.zeros(5, np.int64))
    with pytest.raises(DataError, match="share 1 labels"):
        filters(train, one, progress=False)


def test_driving_samples_are_those_with_the_largest_sum_of_positive_activations() -> None:
    """Of channel 1 alone, and what is below 0 takes nothing away; equals in the order of the file."""
    x = np.full((5, 3, 2, 2), 100.0)
    x[:, 1] = np.array([
        [[1, 1], [1, 1]], [[9, -9], [-9, -9]], [[0, 0], [5, -50]], [[-1, -1], [-1, -1]], [[2, 0], [2, 0]],
    ])  # fmt: skip
    source = probes.from_arrays({"map": x}, ids=[10, 11, 12, 13, 14])
    assert top_activating(source, "map", 1, 3).tolist() == [11, 12, 10]
    assert top_activating(source, "map", 1, 9).tolist() == [11, 12, 10, 14, 13]


def test_standard_errors_are_the_spread_over_plain_resamplings() -> None:
    """Training samples count as often as they are drawn, by a Newton step of the head; test samples are drawn in each label."""
    rng = np.random.default_rng(1)
    y, t = rng.permutation(np.repeat([0, 1, 2], [50, 30, 20])), rng.permutation(np.repeat([0, 1, 2], [40, 15, 25]))
    k, f, p, draws, alpha = 3, 6, 2, 5, 0.01
    x, z = (np.maximum(rng.normal(size=(len(own), f, p)) + np.eye(3, 6)[own][:, :, None], 0) for own in (y, t))
    train = probes.from_arrays({"map": x}, ids=np.arange(100), labels=y)
    test = probes.from_arrays({"map": z}, ids=np.arange(1000, 1080), labels=t)
    options = HeadOptions(alpha=alpha)
    frame = filters(train, test, bootstrap=draws, seed=3, heads=options, progress=False).table.select(variant="").frame
    frame = frame.set_index("metric")

    flat, weights = x.reshape(100, -1), plain_head(x.reshape(100, -1), y, k, alpha)
    chances = np.exp(flat @ weights.T) / np.exp(flat @ weights.T).sum(axis=1, keepdims=True)
    hessian = alpha * np.eye(weights.size)
    for row, chance in zip(flat, chances, strict=True):
        hessian += np.kron(np.diag(chance) - np.outer(chance, chance), np.outer(row, row)) / 100
    slopes = (chances - np.eye(k)[y])[:, :, None] * flat[:, None]
    draw = np.random.default_rng(3)
    times = draw.multinomial(100, np.full(100, 0.01), size=draws)
    expected = []
    for counts in times:
        step = np.linalg.solve(hessian, np.einsum("n,nkd->kd", counts - 1.0, slopes).ravel() / 100)
        drawn = []
        for label in range(k):
            mine = z[t == label]
            drawn.append(np.repeat(mine, draw.multinomial(len(mine), np.full(len(mine), 1 / len(mine))), axis=0).mean(axis=0))
        expected.append(summary(np.stack(drawn), (weights - step.reshape(k, -1)).reshape(k, f, p)))
    short, moved = ["snr_external", "snr_field_unit", "snr_field_raw", "signal_dispersion"], []
    for metric in set(expected[0]) - {*short}:
        values = np.array([each[metric] for each in expected])
        if np.isfinite(values).all() and np.ptp(values) > 0:
            spread = np.sqrt(np.square(values - values.mean()).sum() / (draws - 1)) * 2.7764 / 1.96  # Student's t of 4 degrees
            assert frame["se"][metric] == pytest.approx(spread, rel=1e-4), metric
            moved.append(metric)
        else:
            assert np.isnan(frame["se"][metric]), metric
    assert len(moved) >= 8
    assert frame["se"][short].isna().all()


def test_the_stages_of_an_efficientnet_b0_as_in_the_paper() -> None:
    import timm
    import torch

    torch.manual_seed(0)
    net = timm.create_model("efficientnet_b0").eval()
    images, labels = torch.rand(24, 3, 64, 64), torch.arange(24) % 3
    parts = []
    for start in (0, 12):
        rows = slice(start, start + 12)
        loader = [(images[rows], labels[rows], torch.arange(24)[rows])]
        (batch,) = probes.capture(net, loader, layers=["bn1", "blocks.?", "bn2"], pool="grid:2")
        parts.append(probes.from_arrays(batch.layers, ids=batch.ids, labels=batch.labels))
    table, found = filters(*parts, bootstrap=0, progress=False)
    assert [one.weight.shape for one in found.values()] == [(3, f, 4) for f in (32, 16, 24, 40, 80, 112, 192, 320, 1280)]
    assert [value(table, layer, "filters_per_layer") for layer in found] == [32, 16, 24, 40, 80, 112, 192, 320, 1280]


def test_fields_of_a_transformers_heads_are_sums_of_those_of_their_nodes() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(240) % 4
    x = np.abs(rng.normal(size=(240, 12))) + (y[:, None] == np.arange(12) % 4)
    train, test = (
        probes.from_arrays({"attn": x[i : i + 120]}, ids=np.arange(i, i + 120), labels=y[i : i + 120]) for i in (0, 120)
    )
    _, found = filters(train, test, groups={"attn": 3}, progress=False)
    one = found["attn"]
    _, alone = filters(train, test, progress=False)
    nodes = alone["attn"]
    weights = nodes.weight - nodes.weight.mean(0)
    for head in range(3):
        expected = sum(np.outer(nodes.means[:, node, 0], weights[:, node, 0]) for node in range(4 * head, 4 * head + 4))
        np.testing.assert_allclose(field_of(one.means, one.weight, head), expected, atol=1e-6)
    assert one.clusters.places == 4


def test_t19_the_real_resnet20_knows_more_at_its_end(real_data: Path, tmp_path: Path) -> None:
    from repanalysis.extraction import build_run, write

    parts = []
    for split, limit in (("train", 1500), ("val", 1000)):
        run = build_run(
            "py:tests.networks.cifar_resnet:resnet20", f"imagefolder:{real_data}/cifar10/{split}.tar.gz", split=split,
            limit=limit, weights=real_data / "weights" / "resnet20-12fca82f.th", layers=["relu", "layer3.2.relu2"],
            pool="grid:2", device="cpu",
        )  # fmt: skip
        parts.append(write(run, tmp_path / f"{split}.h5", progress=False))
    table, _ = filters(*parts, bootstrap=0, progress=False)
    assert value(table, "layer3.2.relu2", "layer_accuracy") > 0.75 > 0.45 > value(table, "relu", "layer_accuracy")
    assert value(table, "layer3.2.relu2", "snr_pair") > 1.2 * value(table, "relu", "snr_pair")
    assert value(table, "layer3.2.relu2", "noise_per_filter") < 0.7 * value(table, "relu", "noise_per_filter")


def test_copies_of_the_training_samples_and_other_weights_are_refused() -> None:
    train, test = sources()
    turned = np.arange(240)[::-1]
    copy = probes.from_arrays({"map": train["map"][turned]}, ids=turned, labels=train.labels[turned])  # type: ignore[index]
    with pytest.raises(UsageError, match="Give activations of other samples"):
        filters(train, copy, layers="map", progress=False)
    named = [
        probes.from_arrays({"map": one["map"]}, ids=one.ids, labels=one.labels, attrs={"weights_sha256": sha})
        for one, sha in ((train, "a"), (test, "b"))
    ]
    with pytest.raises(DataError, match="recorded with different weights"):
        filters(*named, progress=False)


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_layer_that_cannot_be_looked_at_stops_no_other(where: str) -> None:
    """NaN among the test rows gave an accuracy all the same."""
    train, test = sources()
    whole = test if where == "test" else train
    x = whole["map"].copy()
    x[5] = np.nan
    bad = probes.from_arrays({"map": x, "mean": whole["mean"]}, ids=whole.ids, labels=whole.labels)
    pair = (train, bad) if where == "test" else (bad, test)
    with pytest.warns(LeftOutWarning, match="1 of 2 layers could not be analyzed, 'map': Layer map of the arrays holds NaN"):
        table, heads = filters(*pair, progress=False, bootstrap=0)
    good, _ = filters(train, test, progress=False, bootstrap=0)
    assert list(heads) == ["mean"]
    np.testing.assert_array_equal(table.select(layer="mean").frame["value"], good.select(layer="mean").frame["value"])
    rows, expected = table.select(layer="map").frame, good.select(layer="map").frame
    assert rows["value"].isna().all()
    assert (rows["n"] == 180).all()
    keys = ["metric", "variant"]
    assert sorted(map(tuple, rows[keys].to_numpy())) == sorted(map(tuple, expected[keys].to_numpy()))
    with pytest.raises(DataError, match="holds NaN or inf in 1 of"):
        filters(*pair, progress=False, bootstrap=0, strict=True)


def test_a_layer_beyond_the_budget_is_a_row() -> None:
    train, test = sources()
    with pytest.warns(LeftOutWarning, match="'map': Layer map .* takes"):
        table, _ = filters(train, test, progress=False, bootstrap=0, state_budget=60_000)
    assert table.select(layer="mean").frame["value"].notna().any()


def test_a_resampling_in_which_a_quantity_is_undefined_gives_it_no_standard_error() -> None:
    """Noise in which few filters have clusters: some resamplings lacked a quantity that others had, a KeyError."""
    x = np.random.default_rng(0).normal(size=(60, 3))
    for seed in range(5):
        table, _ = filters(probes.from_arrays({"a": x}, labels=np.arange(60) % 3), seed=seed, strict=True, progress=False)
        assert not table.failures
