"""The file is at its last commit whatever stops the writer: tried by stopping it before every single step it takes."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import probes.storage.journal
from probes import FormatError, UsageError
from probes.storage.journal import PAGE, AtomicFile, Extents, Journal
from probes.storage.seal import UUID_TAG, is_interrupted, open_bytes

UUID = "0123456789abcdef" * 2


@given(st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=20)), max_size=12))
def test_extents_are_a_sparse_array(writes: list[tuple[int, bytes]]) -> None:
    held, expected, written = Extents(), bytearray(100), bytearray(100)
    for start, data in writes:
        held.put(start, data)
        expected[start : start + len(data)] = data
        written[start : start + len(data)] = b"\1" * len(data)
    for start, stop in ((0, 100), (13, 14), (7, 55)):
        view = bytearray(b"?" * (stop - start))
        held.overlay(start, memoryview(view))
        wanted = [expected[at] if written[at] else ord("?") for at in range(start, stop)]
        assert list(view) == wanted
    stretches = [(start, start + len(data)) for start, data in held]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(stretches)), "disjoint and apart"


def test_a_journal_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path, extents = tmp_path / "x", Extents()
    extents.put(5, b"hello")
    Journal(UUID, 77, extents).write(path)
    found = Journal.read(path)
    assert found is not None
    assert (found.uuid, found.eof, list(found.extents)) == (UUID, 77, [(5, b"hello")])
    content = Journal.beside(path).read_bytes()
    for cut in range(len(content)):
        Journal.beside(path).write_bytes(content[:cut])
        assert Journal.read(path) is None
    Journal.beside(path).write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    assert Journal.read(path) is None


class Stopped(BaseException):
    """A kill."""


def steps(path: Path, commits: list[bytes], sealed: Callable[[], None]) -> Iterator[None]:
    """A writer's life, cut where it may be killed: between system calls (see `killed_after`)."""
    rng = np.random.default_rng(0)
    file = AtomicFile(path, UUID, fresh=True)
    try:
        free: list[tuple[int, int]] = []
        size = 0
        for _ in range(4):
            file.seek(0)
            file.write(memoryview(UUID_TAG + UUID.encode() + rng.bytes(30)))  # structures, overwritten in place
            for start, stop in free:
                file.seek(start)
                file.write(memoryview(rng.bytes(stop - start)))
            size = max(size, 200) + 3000
            file.seek(size - 3000)
            file.write(memoryview(rng.bytes(3000)))
            yield
            file.seek(0)
            content = bytearray(size)
            file.readinto(memoryview(content))
            free = [(size - 500, size - 100)]
            for start, stop in free:
                content[start:stop] = b"?" * (stop - start)
            commits.append(bytes(content))  # from here on, either this or the one before
            file.commit(free)
            yield
        file.seal()
        sealed()
    finally:
        file.close()


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Raise `Stopped` instead of the n-th system call that changes something on disk; half of a write may be done."""

    def arm(calls: int) -> None:
        left = itertools.count(calls, -1)
        pwrite, fsync, truncate, replace = os.pwrite, os.fsync, os.ftruncate, Path.replace

        def stop(call: Callable[..., object]) -> Callable[..., object]:
            def wrapped(*arguments: object) -> object:
                now = next(left)
                if now == 0 and call is pwrite:
                    fd, data, at = arguments
                    pwrite(fd, data[: len(data) // 2], at)  # type: ignore[arg-type, index]
                if now <= 0:
                    raise Stopped
                return call(*arguments)

            return wrapped

        for module, name, call in ((os, "pwrite", pwrite), (os, "fsync", fsync), (os, "ftruncate", truncate)):
            monkeypatch.setattr(module, name, stop(call))
        monkeypatch.setattr(Path, "replace", stop(replace))

    return arm


@pytest.mark.parametrize("calls", range(48))
def test_the_file_is_at_its_last_commit_wherever_the_writer_is_killed(
    tmp_path: Path, calls: int, killed_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, commits, ended = tmp_path / "x", [b""], []
    with monkeypatch.context():
        killed_after(calls)
        with suppress(Stopped):
            list(steps(path, commits, lambda: ended.append(True)))
    monkeypatch.undo()
    if not path.exists():
        assert calls < 4
        return
    journal = Journal.read(path)
    if ended or not is_interrupted(path):  # killed in the very last step, the file is complete already
        opened = open_bytes(path)
        assert opened is not None
        content = opened.read()
        opened.close()
    else:
        assert journal is not None
        file = AtomicFile(path, UUID, fresh=False)
        content = bytes(file.seek(0, os.SEEK_END) * b"\0")
        view = bytearray(content)
        file.seek(0)
        file.readinto(memoryview(view))
        content = bytes(view)
        file.close()
    possible = commits[-1:] if ended else commits[-2:]
    assert any(same(content, commit) for commit in possible)


def same(content: bytes, commit: bytes) -> bool:
    """Equal but for what is free."""
    if len(content) != len(commit):
        return False
    free = [(len(commit) - 500, len(commit) - 100)] if commit else []
    cleaned = bytearray(content)
    for start, stop in free:
        cleaned[start:stop] = b"?" * (stop - start)
    return bytes(cleaned) == commit


def test_a_writer_that_goes_on_seals_the_same_file(tmp_path: Path) -> None:
    """Also: the checksums of pages that were never touched again are those of the whole file."""
    path = tmp_path / "x"
    file = AtomicFile(path, UUID, fresh=True)
    for start in (0, 3 * PAGE + 5, 9 * PAGE):  # with gaps
        file.seek(start)
        file.write(memoryview(b"\x89HDF\r\n\x1a\n" + UUID_TAG + UUID.encode() + bytes(100)))
        file.commit()
    file.close()
    file = AtomicFile(path, UUID, fresh=False)
    file.seek(20 * PAGE + 1)
    file.write(memoryview(b"end"))
    file.truncate(20 * PAGE + 3)
    file.commit()
    file.seal()
    file.close()
    opened = open_bytes(path)
    assert opened is not None
    assert len(opened.read()) == 20 * PAGE + 3
    opened.close()


def test_a_discarded_file_is_not_touched_any_more(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "x", UUID, fresh=True)
    file.write(memoryview(b"one"))
    file.commit()
    file.seek(0)
    file.write(memoryview(b"two"))
    file.discard()
    file.write(memoryview(b"three"))
    file.truncate(0)
    file.close()
    assert (tmp_path / "x").read_bytes() == b"one"


def test_there_is_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.storage.journal, "_LOCK_SECONDS", 0.3)
    file = AtomicFile(tmp_path / "x", UUID, fresh=True)
    with pytest.raises(UsageError, match="is being written by another process"):
        AtomicFile(tmp_path / "x", UUID, fresh=False)
    file.close()
    AtomicFile(tmp_path / "x", UUID, fresh=False).close()


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    AtomicFile(tmp_path / "x", UUID, fresh=True).close()


def test_there_must_be_a_commit_to_go_on_from(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"something")
    with pytest.raises(FormatError, match="the journal of its last commit is not beside it"):
        AtomicFile(tmp_path / "x", UUID, fresh=False)


@settings(max_examples=200, deadline=None)
@given(
    committed=st.integers(0, 60),
    free=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 8)), max_size=3),
    start=st.integers(0, 70),
    length=st.integers(1, 30),
)
def test_a_write_goes_straight_only_where_no_commit_holds_the_bytes(
    tmp_path_factory: pytest.TempPathFactory, committed: int, free: list[tuple[int, int]], start: int, length: int
) -> None:
    path = tmp_path_factory.mktemp("atomic") / "x"
    file = AtomicFile(path, UUID, fresh=True)
    file.write(memoryview(b"." * committed))
    stretches, at = [], 0
    for gap, size in free:
        if at + gap + size <= committed:
            stretches.append((at + gap, at + gap + size))
            at += gap + size + 1
    file.commit(stretches)
    file.seek(start)
    file.write(memoryview(b"!" * length))
    on_disk = path.read_bytes()
    for position in range(committed):
        open_to_all = any(lo <= position < hi for lo, hi in stretches)
        assert (on_disk[position : position + 1] == b"!") == (open_to_all and start <= position < start + length)
    view = bytearray(length)
    file.seek(start)
    file.readinto(memoryview(view))
    assert bytes(view) == b"!" * length
    file.close()
