"""Which arrays are layers, which axis is that of samples, in which order: from names and lengths of arrays only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import probes
from probes.features.layout import Content, Layout, info_of, laid_out
from probes.features.rows import Rows
from probes.labels import label_key

X = np.random.default_rng(0).normal(size=(6, 3))


def of(ordered: bool = True, **arrays: object) -> Layout:
    return laid_out(Content({name: np.asarray(array) for name, array in arrays.items()}, ordered=ordered), Path("x.npz"))


def test_the_number_of_samples_is_the_most_frequent_length() -> None:
    layout = of(a=X, b=X[:, :1], c=X, mean=np.zeros(3), turned=X.T, scalar=1.0, text=["x"] * 6, complex=X * 1j)
    assert (layout.n, list(layout.rows)) == (6, ["a", "b", "c"])
    assert layout.skipped == {
        "scalar": "it is a single number",
        "text": "it holds text, no numbers",
        "complex": "it holds complex numbers; give real and imaginary parts, or absolute values, as layers of their own",
        "mean": "its first axis has 3 entries, not 6, as samples have",
        "turned": "its first axis has 3 entries, not 6, as samples have; its axis 1 has: if that one counts the samples, "
        "transpose it",
    }


def test_ties_of_lengths_are_decided_by_labels_or_refused() -> None:
    assert of(a=X, b=X.T, labels=np.arange(6)).n == 6
    assert of(a=X, b=X.T, ids=np.arange(3)).n == 3
    with pytest.raises(probes.DataError, match=r"does not say how many samples there are: .* \(a: 6, b: 3\)"):
        of(a=X, b=X.T)


@pytest.mark.parametrize("key", ["labels", "ids", "split"])
def test_annotations_have_one_entry_per_sample(key: str) -> None:
    with pytest.raises(probes.DataError, match=f"x.npz has 6 rows of features and 5 {key}; each sample needs one"):
        of(a=X, b=X, **{key: np.arange(5)})


@pytest.mark.parametrize("name", ["y", "Label", "labels", "target", "TARGETS", "class", "group/labels"])
def test_labels_have_several_usual_names(name: str) -> None:
    layout = of(a=X, **{name: np.arange(6)})
    assert list(layout.rows) == ["a"]
    assert layout.columns["labels"].tolist() == list(range(6))


def test_two_candidates_for_labels_are_ambiguous() -> None:
    with pytest.raises(probes.UsageError, match="x.npz has 'labels' and 'y', and each may hold the labels"):
        of(a=X, labels=np.arange(6), y=np.arange(6))
    assert label_key(["fc", "layer"]) is None


def test_names_are_sorted_naturally_where_the_file_has_no_order() -> None:
    assert list(of(ordered=False, layer10=X, layer2=X, Layer1=X, fc=X).rows) == ["Layer1", "fc", "layer2", "layer10"]
    assert of(ordered=False, a=X).order.startswith("natural order")
    assert list(of(layer10=X, layer2=X).rows) == ["layer10", "layer2"]
    depths = [info.depth for info in of(b=X, a=X).info.values()]
    assert depths == [0.5, 1.0]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({}, "holds no array that can be a layer"),
        ({"labels": [1]}, "holds no array that can be a layer"),
        ({"a": X * 1j}, r"holds no array that can be a layer \(a: it holds complex"),
        ({"a": X[:0]}, "holds no samples"),
        ({"a": X[:, :0]}, "and so no features"),
        ({"x_train": X, "y_train": X}, "holds a data set"),
        ({"train_x": X}, "holds a data set"),
        (
            {"conv.weight": X, "conv.bias": X[0], "fc.weight": X},
            "holds the weights of a network .*extract MODEL --weights x.npz",
        ),
    ],
)
def test_files_without_layers_are_refused(arrays: dict[str, object], sentence: str) -> None:
    with pytest.raises(probes.DataError, match=sentence):
        of(**arrays)


def test_one_sample_and_one_feature_are_enough_to_be_read() -> None:
    layout = of(a=[1.0])
    assert (layout.n, layout.info["a"].dims, layout.info["a"].source_shape) == (1, ("sample", "channel"), (1,))
    map_info = of(a=np.zeros((2, 3, 4, 5))).info["a"]
    assert (map_info.dims, map_info.source_shape) == (("sample", "channel", "axis2", "axis3"), (3, 4, 5))


def test_an_invalid_description_is_refused() -> None:
    described: dict[str, object] = {
        "name": "a",
        "order": np.array([1]),
        "depth": 0.5,
        "dims": '["sample", "channel"]',
        "more": 1,
    }
    assert info_of(described, "x") == probes.LayerInfo("a", 1, 0.5, ("sample", "channel"))
    for bad in ({"dims": "{"}, {"order": [1, 2]}):
        with pytest.raises(probes.FormatError, match="x contains an invalid description of a layer"):
            info_of(described | bad, "x")
    with pytest.raises(probes.FormatError, match="x contains an invalid description of a layer"):
        info_of({"name": "a"}, "x")


def test_arrays_satisfy_the_protocol_of_rows() -> None:
    rows: Rows = X
    assert rows[1:2].shape == (1, 3)
