"""Every kind of feature file through `probes.open`: what is read, as in docs/inputs.md, and what is refused."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

import probes
from probes.features.source import Features
from repanalysis import analyze
from tests.probes.features.files import EARLY, KINDS, LABELS, LATE, N, npz

DOCS = Path(__file__).parents[3] / "docs" / "inputs.md"
BEGIN, END = "<!-- made by tests/probes/features/test_opening.py -->", "<!-- end -->"


def example(name: str, folder: Path) -> Path:
    KINDS[name](folder / name)
    return folder / name


@pytest.mark.parametrize("name", KINDS)
def test_written_features_are_read_back(name: str, tmp_path: Path) -> None:
    with probes.open(example(name, tmp_path)) as source:
        assert isinstance(source, Features)
        assert len(source) == N
        first = source[source.layers[0]]
        np.testing.assert_allclose(first, EARLY, rtol=1e-6 if name in ("x.csv", "x.tsv", "x.txt") else 0, atol=0)
        if any(layer.endswith("layer10") for layer in source.layers):
            assert [layer.rpartition("/")[2] for layer in source.layers] == ["layer2", "layer10"]
            np.testing.assert_array_equal(source[source.layers[1]], LATE)
        if source.labels is not None:
            np.testing.assert_array_equal(source.labels, LABELS)
        else:
            assert name in ("x.npy", "x.txt")
        assert [info.depth for info in source.info.values()][-1] == 1.0
        assert source.attrs["bytes"] == sum(
            f.stat().st_size for f in ([source.path] if source.path.is_file() else source.path.iterdir())
        )


@pytest.mark.parametrize("name", KINDS)
def test_batches_selected_rows_and_copies_have_the_same_values(name: str, tmp_path: Path) -> None:
    source = probes.open(example(name, tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    selected = np.array([7, 0, 1, 11, 1])
    for layer in source.layers:
        expected = source[layer]
        assert expected.dtype.kind == "f"
        for size in (1, 5, None):
            parts = list(source.iter([layer], size))
            np.testing.assert_array_equal(np.concatenate([part.layers[layer] for part in parts]), expected)
            np.testing.assert_array_equal(np.concatenate([part.ids for part in parts]), source.ids)
        np.testing.assert_array_equal(source.take(layer, selected), expected[selected])
        np.testing.assert_array_equal(copy[layer], expected)
    source.close()
    copy.close()


def described(name: str, folder: Path) -> str:
    """A row of the table in the documentation."""
    with probes.open(example(name, folder)) as source:
        layers = ", ".join(f"`{layer}` {'x'.join(map(str, source[layer].shape[1:]))}" for layer in source.layers)
        labels = (
            "none"
            if source.labels is None
            else "yes"
            if source.class_names is None
            else f"with {len(source.class_names)} names"
        )
        ids = "positions" if source.ids.tolist() == list(range(N)) else f"{source.ids[0]}, {source.ids[1]}, ..."
        made_by = (KINDS[name].__name__).replace("_file", "")
        return f"| `{name}` ({made_by}) | {layers} | {labels} | {ids} | {source.attrs['layer_order']} |"


def test_the_table_of_kinds_is_current(tmp_path: Path) -> None:
    head = ["| file | layers | labels | ids | order of layers |", "| --- | --- | --- | --- | --- |"]
    table = "\n".join([*head, *(described(name, tmp_path) for name in KINDS)])
    text = DOCS.read_text(encoding="utf-8")
    before, _, after = text.partition(BEGIN)
    assert after, f"{DOCS} lacks {BEGIN}"
    if os.environ.get("REPANALYSIS_WRITE_DOCS"):
        DOCS.write_text(f"{before}{BEGIN}\n{table}\n{END}{after.partition(END)[2]}", encoding="utf-8")
    else:
        assert after.partition(END)[0].strip() == table, "run this test with REPANALYSIS_WRITE_DOCS=1"


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.h5"])
def test_analysis_of_a_file_equals_that_of_its_arrays(name: str, tmp_path: Path) -> None:
    table = analyze(example(name, tmp_path), "class_mean_separation", groups=0)
    plain = analyze(probes.from_arrays({"a": EARLY, "b": LATE}, labels=LABELS), "class_mean_separation", groups=0)
    np.testing.assert_allclose(table.frame["value"], plain.frame["value"], rtol=1e-12)
    assert table.provenance["x"]["recorded"]["features"] == str(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.npz", "x.h5"])
def test_other_processes_open_the_file_by_path(name: str, tmp_path: Path) -> None:
    path = example(name, tmp_path)
    sequential, parallel = (analyze(path, "class_mean_separation", groups=0, workers=workers) for workers in (0, 2))
    np.testing.assert_array_equal(sequential.frame["value"], parallel.frame["value"])


def test_a_file_replaced_after_opening_is_detected(tmp_path: Path) -> None:
    path = example("x.npz", tmp_path)
    content = pickle.dumps(probes.open(path))
    np.savez(path, layer2=EARLY + 1, layer10=LATE, labels=LABELS, more=EARLY)
    with pytest.raises(probes.FormatError, match="is not the file that was opened"):
        pickle.loads(content)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("folder", "x.csv", "x.tsv", "x.txt")])
def test_a_truncated_file_is_refused_or_complete(name: str, tmp_path: Path) -> None:
    path = example(name, tmp_path)
    content = path.read_bytes()
    with probes.open(path) as source:
        expected = {layer: source[layer] for layer in source.layers}
        labels = source.labels
    for cut in [0, 1, 7, *range(16, len(content), max(1, len(content) // 25)), len(content) - 1]:
        path.write_bytes(content[:cut])
        try:
            with probes.open(path) as source:
                rows = {layer: source[layer] for layer in source.layers}
                assert list(rows) == list(expected)
                assert all(np.array_equal(rows[layer], expected[layer]) for layer in rows)
                assert (source.labels is None) == (labels is None)
                assert labels is None or np.array_equal(source.labels, labels)
        except (probes.FormatError, probes.DataError) as error:
            assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt"])
def test_a_table_truncated_within_a_row_is_refused(name: str, tmp_path: Path) -> None:
    path = example(name, tmp_path)
    content = path.read_bytes()
    separator = {"x.csv": b",", "x.tsv": b"\t", "x.txt": b" "}[name]
    path.write_bytes(content[: content.rindex(separator)])
    with pytest.raises(probes.FormatError, match="its last row has . of . columns: it was cut off"):
        probes.open(path)


OTHERS = {
    "x.npy": (b"PK\x03\x04" + bytes(40), "is a zip archive, as npz files and files of torch are by its first bytes"),
    "y.npy": (b"hello, world: no array", "can't be read as an npy file: it does not begin like one"),
    "x.npz": (b"\x93NUMPY" + bytes(40), "is an npy file by its first bytes"),
    "x.h5ad": (b"PAR1" + bytes(40), "is a parquet file by its first bytes"),
    "x.nc": (b"CDF\x01" + bytes(40), "is a netCDF-3 file; write it as netCDF-4"),
    "x.csv": (b"", r"is empty \(0 bytes\)"),
    "y.csv": (b"\x1f\x8b" + bytes(40), "is packed with gzip by its first bytes"),
    "z.csv": (b"a,b\n1,2\n3,\0\n" * 3, "can't be read as a table|holds"),
    "data_batch_1": (pickle.dumps({b"data": [1]}), "torchvision:CIFAR10,root=DIR"),
    "x.pkl": (pickle.dumps([1.0]), "is a Python pickle, which runs code when it is read"),
    "x.pt": (pickle.dumps([1.0]), "only unpickling reads"),
    "x.safetensors": (b"\x08\0\0\0\0\0\0\0{}      ", "holds no array that can be a layer"),
    "y.safetensors": (b"\xff" * 40, "can't be read as a safetensors file"),
    "x.feather": (b"ARROW1" + bytes(40), r"is not a file of activations or features. .*Features are read from \.npy, \.npz"),
    "x.parquett": (b"PARQ" + bytes(40), r"Did you mean '\.parquet'\?"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_unknown_kinds_of_files_have_one_sentence_errors(name: str, tmp_path: Path) -> None:
    content, sentence = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises((probes.FormatError, probes.DataError), match=sentence) as caught:
        probes.open(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert "weights_only=False" not in str(caught.value)


def test_the_error_for_cifar_pickles_says_how_to_read_them(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps({}))
    with pytest.raises(probes.FormatError, match="extract --data torchvision:CIFAR10"):
        probes.open(tmp_path / "cifar-10-batches-py")


def test_activation_files_are_read_as_such(tmp_path: Path) -> None:
    writer = probes.create(tmp_path / "acts.h5")
    writer.append(probes.Batch(np.arange(N), {"a": EARLY}, LABELS))
    writer.close(complete=True)
    for name in ("acts.h5", "acts.nc", "acts.bak"):
        (tmp_path / "acts.h5").rename(tmp_path / name)
        assert isinstance(probes.open(tmp_path / name), probes.Store)
        (tmp_path / name).rename(tmp_path / "acts.h5")
    content = bytearray((tmp_path / "acts.h5").read_bytes())
    content[content.find(EARLY.tobytes())] ^= 1
    (tmp_path / "acts.h5").write_bytes(content)
    with pytest.raises(probes.FormatError, match="damaged"):
        probes.open(tmp_path / "acts.h5")["a"]


def test_omitted_arrays_are_reported_once_and_not_in_other_processes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=EARLY, b=LATE, names=np.array(["x"] * N), centre=np.zeros(7))
    with pytest.warns(probes.IgnoredWarning, match="'names' and 1 more left out, since it holds text, no numbers"):
        source = probes.open(tmp_path / "x.npz")
    assert source.skipped.keys() == {"names", "centre"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(source))


def test_an_hdf5_file_with_external_references_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = EARLY
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["y"] = EARLY
        file["x"] = h5py.ExternalLink("secret.h5", "x")
    with pytest.raises(probes.FormatError, match="/x is a link"):
        probes.open(tmp_path / "x.h5")


def test_a_large_file_is_not_loaded_entirely(tmp_path: Path) -> None:
    """Only the requested rows are read: most of the file is a hole."""
    import resource

    shape = (1 << 20, 4096)  # 16 GiB
    array = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype="f4", shape=shape)
    array[-1] = 1.0
    del array
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = probes.open(tmp_path / "x.npy")
    assert next(source.iter()).layers["features"].shape == (2048, 4096)
    assert source.take("features", np.array([3, shape[0] - 1]))[:, 0].tolist() == [0.0, 1.0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_a_folder_of_shards_and_features_is_read_as_shards(tmp_path: Path) -> None:
    npz(tmp_path / "x.npz")
    with pytest.raises(probes.FormatError, match=r"holds no \*.h5 and no \*.npy file"):
        probes.open(tmp_path)
