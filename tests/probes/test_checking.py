"""doctor: intact and damaged files, and what to do. compare: whether a file's values are reproduced."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import probes
from probes import Batch
from probes.checking import doctor
from probes.storage.journal import Journal
from probes.storage.shards import shard_name
from tests.probes.forging import forged

X = np.random.default_rng(0).normal(size=(40, 5)).astype("f4")


def write(path: Path, rows: slice = slice(0, 40), *, complete: bool = True, **attrs: object) -> Path:
    writer = probes.create(path, attrs=attrs)
    writer.append(Batch(np.arange(40)[rows], {"a": X[rows], "b": np.repeat(X[rows], 20_000, axis=1)}))
    writer.close(complete=complete)
    return path


def only(path: Path) -> tuple[str, str]:
    (finding,) = doctor(path, progress=False)
    return finding.state, f"{finding.what} {finding.advice}"


def test_doctor_of_a_complete_file(tmp_path: Path) -> None:
    assert only(write(tmp_path / "x.h5")) == ("whole", "40 samples, 2 layers, every byte as it was written ")


def test_doctor_of_a_stopped_file(tmp_path: Path) -> None:
    state, text = only(write(tmp_path / "x.h5", complete=False))
    assert state == "resumable"
    assert "40 samples are whole" in text
    assert "--resume" in text


def test_doctor_of_a_stopped_file_without_its_journal(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", complete=False)
    Journal.beside(path).unlink()
    state, text = only(path)
    assert state == "damaged"
    assert "copy x.h5.journal as well" in text


def test_doctor_of_a_file_without_a_commit(tmp_path: Path) -> None:
    Journal("0" * 32, 0).write(tmp_path / "x.h5")
    (tmp_path / "x.h5").touch()
    assert only(tmp_path / "x.h5")[0] == "empty"


def test_a_damaged_layer_is_named_and_the_others_are_usable(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    content = bytearray(path.read_bytes())
    at = content.find(np.repeat(X[20:21], 20_000, axis=1).tobytes()[:4000])
    content[at + 10_000] ^= 1
    path.write_bytes(content)
    state, text = only(path)
    assert state == "damaged"
    assert "1 of 2 layers can't be read (b); the others are whole" in text
    np.testing.assert_array_equal(probes.open(path)["a"], X)


def test_doctor_of_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_text("hello")
    assert only(tmp_path / "x.h5")[0] == "foreign"
    with pytest.raises(FileNotFoundError):
        doctor(tmp_path / "none.h5")


def test_doctor_of_feature_files(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    with probes.open(path) as store:
        store.to_xarray().to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
        store.to_safetensors(tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", a=X, labels=np.arange(len(X)) % 2)
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["a"] = X
    for name, layers in (("x.nc", 2), ("x.safetensors", 2), ("x.npz", 1), ("plain.h5", 1)):
        (finding,) = doctor(tmp_path / name, progress=False)
        assert (finding.state, finding.ok) == ("features", True), finding
        assert finding.what.startswith(f"{len(X)} samples, {layers} layers of features")
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content[:-100])
    assert doctor(tmp_path / "x.npz", progress=False)[0].state == "foreign"


def test_damage_of_a_file_is_reported_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    path.write_bytes(path.read_bytes()[:30_000])
    (finding,) = doctor(path, progress=False)
    assert finding.state == "damaged"
    assert not finding.what.endswith(".")
    assert "again" not in finding.what
    assert finding.advice.startswith("Copy it again from where it was written")


def test_doctor_of_a_file_that_is_being_written(tmp_path: Path) -> None:
    with probes.create(tmp_path / "x.h5") as writer:
        writer.append(Batch(np.arange(3), {"a": X[:3]}))
        assert only(tmp_path / "x.h5")[0] == "busy"


def test_doctor_of_a_folder_of_shards(tmp_path: Path) -> None:
    for shard in range(3):
        write(tmp_path / shard_name(shard, 3), slice(10 * shard, 10 * shard + 10), shard=shard, shards=3)
    *files, summary = doctor(tmp_path, progress=False)
    assert all(finding.ok for finding in (*files, summary))
    assert "3 shards fit together: 30 samples" in summary.what
    (tmp_path / shard_name(1, 3)).unlink()
    missing = doctor(tmp_path, progress=False)[-1]
    assert missing.state == "missing"
    assert "shard-00001-of-00003.h5" in missing.what
    (tmp_path / "empty").mkdir()
    assert doctor(tmp_path / "empty")[0].state == "missing"


def test_non_finite_values_are_reported(tmp_path: Path) -> None:
    with probes.create(tmp_path / "x.h5") as writer:
        writer.append(Batch(np.arange(2), {"a": np.array([[1.0, np.nan], [np.inf, 0.0]])}))
    assert "2 values are NaN or infinite, in a" in only(tmp_path / "x.h5")[1]


def test_repeated_ids_are_reported(tmp_path: Path) -> None:
    for ids in ([5, 7, 5], ["a", "b", "a"]):
        path = tmp_path / f"{ids[0]}.h5"
        with probes.create(path) as writer:
            writer.append(Batch(np.array([*ids[:2], ids[0] * 2]), {"a": X[:3]}))
        with forged(path) as raw:
            raw["obs/id"][2] = raw["obs/id"][0]
        state, text = only(path)
        assert state == "damaged"
        assert f"{path} is damaged (sample id {ids[0]!r} is repeated" in text
