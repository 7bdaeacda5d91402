"""Every byte that is read was written: a changed bit anywhere is an error, and never reaches HDF5."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import probes
from probes.checking import doctor
from probes.storage.journal import PAGE, Journal
from probes.storage.seal import UUID_TAG, is_empty, is_interrupted, open_bytes, uuid_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "acts.h5"
    x = np.random.default_rng(0).normal(size=(4000, 64)).astype("f4")
    with probes.create(path) as writer:
        writer.append(probes.Batch(ids=np.arange(4000), layers={"x": x}))
    return path


@pytest.mark.parametrize(
    ("start", "length"), [(0, 10), (PAGE - 3, 6), (5, 3 * PAGE), (PAGE, PAGE), (0, 10**9), (2 * PAGE + 1, 7)]
)
def test_any_stretch_can_be_read(file: Path, start: int, length: int) -> None:
    opened = open_bytes(file)
    assert opened is not None
    content = file.read_bytes()[: opened.seek(0, 2)]
    view = bytearray(min(length, len(content) - start))
    opened.seek(start)
    assert opened.readinto(memoryview(view)) == len(view)
    assert bytes(view) == content[start : start + length]
    opened.close()


def test_a_changed_bit_is_an_error_unless_nobody_reads_it(file: Path) -> None:
    content = bytearray(file.read_bytes())
    truth, refused = probes.open(file)["x"], 0
    for at in np.random.default_rng(0).choice(len(content), 60, replace=False):
        content[at] ^= 16
        file.write_bytes(content)
        try:
            found = probes.open(file)["x"]
        except probes.FormatError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, truth)
            assert doctor(file, progress=False)[0].state == "damaged", "whoever reads every byte sees it"
        content[at] ^= 16
    file.write_bytes(content)
    assert refused > 5
    assert doctor(file, progress=False)[0].state == "whole"


def test_what_can_not_be_trusted_is_refused(file: Path) -> None:
    content = file.read_bytes()
    for cut in (0, 1, 100, 5000, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:cut])
        with pytest.raises(probes.FormatError):
            probes.open(file)
    file.write_bytes(content + b"more")
    with pytest.raises(probes.FormatError, match="the seal at its end is missing"):
        probes.open(file)


def test_a_seal_of_another_file_does_not_fit(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    with probes.create(other) as writer:
        writer.append(probes.Batch(ids=np.arange(4000), layers={"x": np.zeros((4000, 64), "f4")}))
    opened, content = open_bytes(file), file.read_bytes()
    assert opened is not None
    size = opened.seek(0, 2)
    other.write_bytes(other.read_bytes()[:size] + content[size:])
    with pytest.raises(probes.FormatError):
        probes.open(other)


def test_the_uuid_stands_near_the_start(file: Path) -> None:
    uuid = uuid_of(file)
    assert uuid is not None
    assert 0 < file.read_bytes().find(UUID_TAG + uuid.encode()) < 2048
    with h5py.File(file) as raw:
        assert raw.attrs["seal"] == UUID_TAG + uuid.encode()
    (file.parent / "plain").write_bytes(b"nothing")
    assert uuid_of(file.parent / "plain") is None


def test_a_stopped_file_is_told_from_a_complete_and_an_empty_one(file: Path, tmp_path: Path) -> None:
    assert not is_interrupted(file)
    writer = probes.create(tmp_path / "new.h5")
    writer.append(probes.Batch(ids=np.arange(3), layers={"x": np.zeros((3, 2))}))
    writer.close(complete=False)
    assert is_interrupted(tmp_path / "new.h5")
    assert not is_empty(tmp_path / "new.h5")
    Journal("0" * 32, 0).write(tmp_path / "begun.h5")
    (tmp_path / "begun.h5").touch()
    assert is_empty(tmp_path / "begun.h5")
    with pytest.raises(probes.FormatError, match="holds nothing yet"):
        probes.open(tmp_path / "begun.h5", partial=True)


def test_a_journal_that_stayed_behind_is_of_no_consequence(file: Path) -> None:
    """Should the writer be killed between the seal and the removal of the journal."""
    Journal(uuid_of(file) or "", 17).write(file)
    assert len(probes.open(file)) == 4000


def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    with probes.create(tmp_path / "x.h5") as writer:
        writer.append(probes.Batch(ids=np.arange(3), layers={"x": np.zeros((3, 2))}))
        with pytest.raises(probes.UsageError, match="is being written right now"):
            probes.open(tmp_path / "x.h5", partial=True)
    assert len(probes.open(tmp_path / "x.h5")) == 3
