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
    """Filters that respond to two labels each, at a separate position per label."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = noise * np.abs(rng.normal(size=(n, f, p)))
    for index in range(f):
        for place, label in enumerate(((index % k), (index + 2) % k)):
            x[y == label, index, place] += 1.0
    return x.reshape(n, f, 2, 2), y


def sources(**test: object) -> tuple[probes.Source, probes.Source]:
    x, y = planted(240, 0)
    pooled = {"map": x, "mean": x.mean((2, 3))}
    z, t = planted(180, 1)
    features = {"map": z, "mean": z.mean((2, 3))}
    train = probes.from_arrays(pooled, ids=np.arange(240), labels=y)
    return train, probes.from_arrays(features, ids=np.arange(1000, 1180), labels=t)


def value(table: Table, layer: str, metric: str, variant: str = "") -> float:
    return float(table.select(layer=layer, metric=metric, variant=variant).frame["value"].item())


def test_planted_labels_are_recovered_and_agree_with_plain_arrays() -> None:
    train, test = sources()
    table, measured = filters(train, test, progress=False)
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
    served = measured["map"].clusters.serves
    share = np.mean([served[index, index % 6] and served[index, (index + 2) % 6] for index in range(12)])
    assert share > 0.8
    row = table.select(layer="map", metric="labels_per_filter", variant="").frame.iloc[0]
    assert 0 < row["se"] < 1 or "no resampling changed the value" in row["note"]


def test_frequent_labels_have_no_larger_weight() -> None:
    """T2: duplicating the samples of a label changes no mean."""
    train, test = sources()
    rows = np.concatenate([np.arange(180), np.flatnonzero(test.labels == 0), np.flatnonzero(test.labels == 0)])
    duplicated = probes.from_arrays({"map": test["map"][rows]}, ids=np.arange(len(rows)) + 1000, labels=test.labels[rows])  # type: ignore[index]
    options = {"layers": "map", "bootstrap": 0, "progress": False}
    original, with_duplicates = (filters(train, part, **options)[1]["map"] for part in (test, duplicated))  # type: ignore[arg-type]
    np.testing.assert_allclose(original.means, with_duplicates.means, rtol=1e-12)
    np.testing.assert_array_equal(original.clusters.cluster, with_duplicates.clusters.cluster)


def test_groups_add_the_fields_of_their_nodes() -> None:
    train, test = sources()
    _, measured = filters(train, test, layers="mean", groups={"mean": 3}, bootstrap=0, progress=False)
    grouped = measured["mean"]
    assert grouped.weight.shape == (6, 3, 4)
    nodes = filters(train, test, layers="mean", bootstrap=0, progress=False)[1]["mean"]
    np.testing.assert_allclose(grouped.weight.reshape(6, 12), nodes.weight.reshape(6, 12), rtol=1e-12)
    with pytest.raises(UsageError, match="into 5 equal groups"):
        filters(train, test, layers="mean", groups={"*": 5}, progress=False)


def test_a_single_source_is_divided_by_its_splits_or_in_halves() -> None:
    x, y = planted(300, 2)
    source = probes.from_arrays({"map": x}, ids=np.arange(300), labels=y)
    table, _ = filters(source, layers="map", bootstrap=0, progress=False)
    assert 120 < table.frame["n"].iloc[0] < 180
    split = np.where(np.arange(300) < 200, "train", "test")
    parted = probes.from_arrays({"map": x}, ids=np.arange(300), labels=y, split=split)
    assert filters(parted, bootstrap=0, progress=False)[0].frame["n"].iloc[0] == 100
    with pytest.raises(UsageError, match="contain the same samples"):
        filters(source, source, progress=False)


def test_a_head_at_chance_accuracy_is_flagged() -> None:
    rng = np.random.default_rng(0)
    parts = [
        probes.from_arrays({"noise": rng.normal(size=(200, 5))}, ids=np.arange(200) + 1000 * at, labels=np.arange(200) % 4)
        for at in (0, 1)
    ]
    table, _ = filters(*parts, progress=False)
    assert table.frame.loc[table.frame["metric"] == "snr_pair", "note"].item().startswith("uninformative")


def test_labels_of_only_one_part_are_left_out_and_named() -> None:
    train, test = sources()
    rows = np.flatnonzero(test.labels != 3)
    fewer = probes.from_arrays({"map": test["map"][rows]}, ids=test.ids[rows], labels=test.labels[rows])  # type: ignore[index]
    table, measured = filters(train, fewer, layers="map", bootstrap=0, progress=False)
    assert measured["map"].labels.tolist() == [0, 1, 2, 4, 5]
    assert "labels [3] are missing" in table.frame["note"].iloc[0]


def test_invalid_input_has_a_one_sentence_error() -> None:
    train, test = sources()
    with pytest.raises(UsageError, match=r"No layer of .* matches 'men'. Did you mean 'mean'"):
        filters(train, test, layers="men", progress=False)
    other_layer = probes.from_arrays({"other": test["map"]}, ids=test.ids, labels=test.labels)
    with pytest.raises(UsageError, match="share no layer; the second has other"):
        filters(train, other_layer, progress=False)
    with pytest.raises(DataError, match="pool"):
        filters(train, test, layers="map", state_budget=1000, progress=False, strict=True)
    unlabelled = probes.from_arrays({"map": train["map"]}, ids=np.arange(240))
    with pytest.raises(DataError, match="no labels"):
        filters(unlabelled, test, progress=False)
    single_label = probes.from_arrays({"map": test["map"][:5]}, ids=test.ids[:5], labels=np.zeros(5, np.int64))
    with pytest.raises(DataError, match="share 1 labels"):
        filters(train, single_label, progress=False)


def test_driving_samples_have_the_largest_sums_of_positive_activations() -> None:
    """Of channel 1 only; negative activations do not count; ties are in the order of the file."""
    x = np.full((5, 3, 2, 2), 100.0)
    x[:, 1] = np.array([
        [[1, 1], [1, 1]], [[9, -9], [-9, -9]], [[0, 0], [5, -50]], [[-1, -1], [-1, -1]], [[2, 0], [2, 0]],
    ])  # fmt: skip
    source = probes.from_arrays({"map": x}, ids=[10, 11, 12, 13, 14])
    assert top_activating(source, "map", 1, 3).tolist() == [11, 12, 10]
    assert top_activating(source, "map", 1, 9).tolist() == [11, 12, 10, 14, 13]


def test_standard_errors_agree_with_plain_resampling() -> None:
    """Training samples are weighted by their draws, with a Newton step of the head; test samples are drawn per label."""
    rng = np.random.default_rng(1)
    y, t = rng.permutation(np.repeat([0, 1, 2], [50, 30, 20])), rng.permutation(np.repeat([0, 1, 2], [40, 15, 25]))
    k, f, p, draws, alpha = 3, 6, 2, 5, 0.01
    x, z = (np.maximum(rng.normal(size=(len(labels), f, p)) + np.eye(3, 6)[labels][:, :, None], 0) for labels in (y, t))
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
        resampled = []
        for label in range(k):
            rows = z[t == label]
            resampled.append(
                np.repeat(rows, draw.multinomial(len(rows), np.full(len(rows), 1 / len(rows))), axis=0).mean(axis=0)
            )
        expected.append(summary(np.stack(resampled), (weights - step.reshape(k, -1)).reshape(k, f, p)))
    short, differing = ["snr_external", "snr_field_unit", "snr_field_raw", "signal_dispersion"], []
    for metric in set(expected[0]) - {*short}:
        values = np.array([replicate[metric] for replicate in expected])
        if np.isfinite(values).all() and np.ptp(values) > 0:
            error = np.sqrt(np.square(values - values.mean()).sum() / (draws - 1)) * 2.7764 / 1.96  # Student's t of 4 degrees
            assert frame["se"][metric] == pytest.approx(error, rel=1e-4), metric
            differing.append(metric)
        else:
            assert np.isnan(frame["se"][metric]), metric
    assert len(differing) >= 8
    assert frame["se"][short].isna().all()


def test_stages_of_efficientnet_b0_have_the_widths_of_the_paper() -> None:
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
    table, measured = filters(*parts, bootstrap=0, progress=False)
    assert [layer_filters.weight.shape for layer_filters in measured.values()] == [
        (3, f, 4) for f in (32, 16, 24, 40, 80, 112, 192, 320, 1280)
    ]
    assert [value(table, layer, "filters_per_layer") for layer in measured] == [32, 16, 24, 40, 80, 112, 192, 320, 1280]


def test_fields_of_transformer_heads_are_sums_over_their_nodes() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(240) % 4
    x = np.abs(rng.normal(size=(240, 12))) + (y[:, None] == np.arange(12) % 4)
    train, test = (
        probes.from_arrays({"attn": x[i : i + 120]}, ids=np.arange(i, i + 120), labels=y[i : i + 120]) for i in (0, 120)
    )
    _, grouped = filters(train, test, groups={"attn": 3}, progress=False)
    attention = grouped["attn"]
    _, ungrouped = filters(train, test, progress=False)
    nodes = ungrouped["attn"]
    weights = nodes.weight - nodes.weight.mean(0)
    for head in range(3):
        expected = sum(np.outer(nodes.means[:, node, 0], weights[:, node, 0]) for node in range(4 * head, 4 * head + 4))
        np.testing.assert_allclose(field_of(attention.means, attention.weight, head), expected, atol=1e-6)
    assert attention.clusters.places == 4


def test_t19_filters_of_resnet20_serve_more_labels_in_later_layers(real_data: Path, tmp_path: Path) -> None:
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


def test_test_data_with_training_samples_or_other_weights_are_refused() -> None:
    train, test = sources()
    reversed_rows = np.arange(240)[::-1]
    copy = probes.from_arrays({"map": train["map"][reversed_rows]}, ids=reversed_rows, labels=train.labels[reversed_rows])  # type: ignore[index]
    with pytest.raises(UsageError, match="Give activations of other samples"):
        filters(train, copy, layers="map", progress=False)
    named = [
        probes.from_arrays({"map": part["map"]}, ids=part.ids, labels=part.labels, attrs={"weights_sha256": sha})
        for part, sha in ((train, "a"), (test, "b"))
    ]
    with pytest.raises(DataError, match="recorded with different weights"):
        filters(*named, progress=False)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_unusable_layer_does_not_stop_the_others(split: str) -> None:
    """Regression: NaN among the test rows gave a finite accuracy."""
    train, test = sources()
    part = test if split == "test" else train
    x = part["map"].copy()
    x[5] = np.nan
    bad = probes.from_arrays({"map": x, "mean": part["mean"]}, ids=part.ids, labels=part.labels)
    pair = (train, bad) if split == "test" else (bad, test)
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


def test_a_layer_beyond_the_budget_is_a_row_with_a_reason() -> None:
    train, test = sources()
    with pytest.warns(LeftOutWarning, match="'map': Layer map .* takes"):
        table, _ = filters(train, test, progress=False, bootstrap=0, state_budget=60_000)
    assert table.select(layer="mean").frame["value"].notna().any()


def test_a_quantity_undefined_in_a_resampling_has_no_standard_error() -> None:
    """Regression: with noise few filters have clusters; a quantity missing from some resamplings raised KeyError."""
    x = np.random.default_rng(0).normal(size=(60, 3))
    for seed in range(5):
        table, _ = filters(probes.from_arrays({"a": x}, labels=np.arange(60) % 3), seed=seed, strict=True, progress=False)
        assert not table.failures
