"""Every byte read is verified: a changed bit anywhere is an error and never reaches HDF5."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash

import probes
from probes.checking import doctor
from probes.storage.journal import PAGE, AtomicFile, Journal
from probes.storage.seal import UUID_TAG, check_bytes, is_empty, is_interrupted, open_bytes, uuid_of


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
def test_any_byte_range_can_be_read(file: Path, start: int, length: int) -> None:
    opened = open_bytes(file)
    assert opened is not None
    content = file.read_bytes()[: opened.seek(0, 2)]
    view = bytearray(min(length, len(content) - start))
    opened.seek(start)
    assert opened.readinto(memoryview(view)) == len(view)
    assert bytes(view) == content[start : start + length]
    opened.close()


def test_a_changed_bit_is_an_error_if_it_is_read(file: Path) -> None:
    content = bytearray(file.read_bytes())
    truth, refused = probes.open(file)["x"], 0
    for at in np.random.default_rng(0).choice(len(content), 60, replace=False):
        content[at] ^= 16
        file.write_bytes(content)
        try:
            values = probes.open(file)["x"]
        except probes.FormatError:
            refused += 1
        else:
            np.testing.assert_array_equal(values, truth)
            assert doctor(file, progress=False)[0].state == "damaged", "whoever reads every byte sees it"
        content[at] ^= 16
    file.write_bytes(content)
    assert refused > 5
    assert doctor(file, progress=False)[0].state == "whole"


def test_files_without_a_valid_seal_are_refused(file: Path) -> None:
    content = file.read_bytes()
    for cut in (0, 1, 100, 5000, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:cut])
        with pytest.raises(probes.FormatError):
            probes.open(file)
    file.write_bytes(content + b"more")
    with pytest.raises(probes.FormatError, match="the seal at its end is missing"):
        probes.open(file)


def test_a_seal_of_another_file_is_refused(file: Path, tmp_path: Path) -> None:
    other_path = tmp_path / "other.h5"
    with probes.create(other_path) as writer:
        writer.append(probes.Batch(ids=np.arange(4000), layers={"x": np.zeros((4000, 64), "f4")}))
    opened, content = open_bytes(file), file.read_bytes()
    assert opened is not None
    size = opened.seek(0, 2)
    other_path.write_bytes(other_path.read_bytes()[:size] + content[size:])
    with pytest.raises(probes.FormatError):
        probes.open(other_path)


def test_the_uuid_is_near_the_start(file: Path) -> None:
    uuid = uuid_of(file)
    assert uuid is not None
    assert 0 < file.read_bytes().find(UUID_TAG + uuid.encode()) < 2048
    with h5py.File(file) as raw:
        assert raw.attrs["seal"] == UUID_TAG + uuid.encode()
    (file.parent / "plain").write_bytes(b"nothing")
    assert uuid_of(file.parent / "plain") is None


def test_stopped_complete_and_empty_files_are_distinguished(file: Path, tmp_path: Path) -> None:
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


def test_a_journal_of_a_sealed_file_is_ignored(file: Path) -> None:
    """As when the writer is killed between sealing and removing the journal."""
    Journal(uuid_of(file) or "", 17).write(file)
    assert len(probes.open(file)) == 4000


def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    with probes.create(tmp_path / "x.h5") as writer:
        writer.append(probes.Batch(ids=np.arange(3), layers={"x": np.zeros((3, 2))}))
        with pytest.raises(probes.UsageError, match="is being written right now"):
            probes.open(tmp_path / "x.h5", partial=True)
    assert len(probes.open(tmp_path / "x.h5")) == 3


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pages of 64 bytes and one of 25, sealed."""
    monkeypatch.setattr("probes.storage.journal.PAGE", 64)
    monkeypatch.setattr("probes.storage.seal.PAGE", 64)
    path, uuid = tmp_path / "tiny", "0123456789abcdef" * 2
    file = AtomicFile(path, uuid, fresh=True)
    file.write(memoryview(UUID_TAG + uuid.encode() + np.random.default_rng(0).bytes(153 - len(UUID_TAG) - 32)))
    file.commit()
    file.seal()
    file.close()
    return path


def test_a_flipped_bit_of_any_byte_is_detected(tiny: Path) -> None:
    content = tiny.read_bytes()
    assert len(content) == 153 + 3 * 8 + 64
    check_bytes(tiny)
    for at in range(len(content)):
        for bit in (0, 7):
            tiny.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            with pytest.raises(probes.FormatError):
                check_bytes(tiny)


def test_only_the_page_of_a_changed_byte_is_refused_and_named(tiny: Path) -> None:
    """Pages are [0, 64), [64, 128) and [128, 153); every range is read once."""
    content = tiny.read_bytes()
    for at in (50, 63, 64, 127, 128, 152):
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        tiny.write_bytes(changed)
        page = at // 64
        for start in range(153):
            for stop in {start + 1, start + 20, start + 64, start + 100, 153}:
                opened = open_bytes(tiny)
                assert opened is not None
                opened.seek(start)
                view = bytearray(min(stop, 153) - start)
                touches = start < 64 * (page + 1) and min(stop, 153) > 64 * page
                if touches:
                    message = f"the bytes from {64 * page} to {64 * page + 64} are not"
                    with pytest.raises(probes.FormatError, match=message) as caught:
                        opened.readinto(memoryview(view))
                    assert opened.error is caught.value
                else:
                    assert opened.readinto(memoryview(view)) == len(view)
                    assert view == changed[start : min(stop, 153)]
                    assert (opened.tell(), opened.error) == (start + len(view), None)
                opened.close()


def test_reading_ends_where_the_content_ends(tiny: Path) -> None:
    opened = open_bytes(tiny)
    assert opened is not None
    assert (opened.readable(), opened.seekable(), opened.is_interrupted) == (True, True, False)
    assert (opened.seek(-3, 2), opened.seek(1, 1), opened.seek(140)) == (150, 151, 140)
    assert opened.read(100) == tiny.read_bytes()[140:153]
    assert opened.read(1) == b""
    opened.seek(1000)
    assert opened.read(1) == b""
    opened.close()
    opened.close()


def test_pages_are_checked_once_and_the_cache_is_bounded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probes.storage.seal._CACHED_PAGES", 2)
    opened, read, pread = open_bytes(tiny), [], os.pread
    assert opened is not None
    monkeypatch.setattr(os, "pread", lambda fd, size, at: read.append((size, at)) or pread(fd, size, at))
    for start in (3, 10, 70, 5, 130, 130, 3):
        opened.seek(start)
        assert opened.read(2) == tiny.read_bytes()[start : start + 2]
    assert read == [(64, 0), (64, 64), (25, 128), (64, 0)], "of three pages two are held; then none but the new"
    opened.close()


def test_an_intact_seal_with_another_uuid_is_refused(tiny: Path) -> None:
    content, uuid = tiny.read_bytes(), "0123456789abcdef" * 2
    table, footer = content[153:-64], content[-64:-8]
    changed = table + footer.replace(uuid.encode(), b"f" * 32)
    tiny.write_bytes(content[:153] + changed + xxhash.xxh3_64(changed).digest())
    with pytest.raises(probes.FormatError, match="the bytes from 0 to 64 are not those that were written"):
        open_bytes(tiny)
