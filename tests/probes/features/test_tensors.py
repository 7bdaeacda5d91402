"""Tensors by name: nested, of every type, memory-mapped; lists, sparse tensors and objects are refused with advice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import probes

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def saved(value: object, path: Path, **options: object) -> Path:
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_every_type_is_read_exactly(ending: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = (X * 3).to(dtype)
    path = tmp_path / f"x.{ending}"
    save_file({"a": tensor}, path) if ending == "safetensors" else torch.save({"a": tensor}, path)
    source = probes.open(path)
    np.testing.assert_array_equal(source["a"], tensor.double().numpy())
    np.testing.assert_array_equal(source.take("a", np.array([5, 2])), tensor[[5, 2]].double().numpy())
    assert source.info["a"].dtype_source == str(dtype).removeprefix("torch.")  # the rounding of the stored type
    assert source["a"].dtype == {torch.float64: "f8", torch.int64: "f8", torch.float16: "f2"}.get(dtype, "f4")


def test_nested_dictionaries_lists_of_labels_and_older_files_are_read(tmp_path: Path) -> None:
    value = {"net": {"b": X, "a": X * 2}, 3: X, "labels": [0, 1] * 4, "epoch": 7, "note": "n", "empty": None}
    with pytest.warns(probes.IgnoredWarning, match="'empty' left out, since it is a NoneType"):
        source = probes.open(saved(value, tmp_path / "x.pt"))
    assert source.layers == ["net/b", "net/a", "3"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1] * 4
    assert (source.attrs["epoch"], source.attrs["note"]) == (7, "n")
    old = probes.open(saved({"a": X.clone().requires_grad_()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False))
    np.testing.assert_array_equal(old["a"], X)
    assert probes.open(saved(X, tmp_path / "one.pt")).layers == ["features"]
    transposed = probes.open(saved({"a": X.T, "b": X.T.contiguous()}, tmp_path / "t.pt"))
    np.testing.assert_array_equal(transposed["a"], transposed["b"])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([X, X], "holds a list, whose parts may be layers or batches"),
        ((X, X), "holds a tuple, whose parts may be layers or batches"),
        ({"a": [X, X]}, "holds a list called 'a', whose parts may be layers or batches"),
        ({"a": np.ones((8, 4))}, "holds Python objects .arrays of numpy among them., which only unpickling reads"),
        (nn.Linear(2, 2), "holds Python objects"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict(), "holds the weights of a network"),
        ({"model": nn.Linear(2, 2).state_dict(), "epoch": 3}, "holds the weights of a network"),
        ({"a": X.to_sparse()}, r"no array that can be a layer \(a: it is sparse; save it dense"),
        ({"a": X.to(torch.complex64)}, r"no array that can be a layer \(a: it holds complex"),
        ({}, "holds no array that can be a layer"),
        (7, "holds a int, whose parts"),
        ({1: X, "1": X}, "holds two entries called '1'"),
        ({"a": {"b": X}, "a/b": X}, "holds two entries called 'a/b'"),
    ],
)
def test_other_objects_than_dictionaries_of_tensors_have_one_sentence_errors(
    value: object, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises((probes.FormatError, probes.DataError), match=sentence) as caught:
        probes.open(saved(value, tmp_path / "x.pt"))
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_malicious_pickle_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(probes.FormatError, match="only unpickling reads"):
        probes.open(saved({"a": Evil()}, tmp_path / "x.pt"))
    assert not (tmp_path / "ran").exists()


def test_weights_and_invalid_headers_in_safetensors_are_refused(tmp_path: Path) -> None:
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(probes.DataError, match="holds the weights of a network"):
        probes.open(tmp_path / "w.safetensors")
    save_file({"a": X}, tmp_path / "x.safetensors", metadata={"class_names": "[cat"})
    with pytest.raises(probes.FormatError, match="holds class_names that are no JSON"):
        probes.open(tmp_path / "x.safetensors")
