"""The file is at its last commit wherever the writer is stopped: tested by stopping it before every system call."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import probes.storage.journal
from probes import FormatError, UsageError
from probes.storage.journal import PAGE, AtomicFile, Journal, Overlay, page_checksums, read_at
from probes.storage.seal import UUID_TAG, is_interrupted, open_bytes

UUID = "0123456789abcdef" * 2


@given(st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=20)), max_size=12))
def test_extents_are_a_sparse_array(writes: list[tuple[int, bytes]]) -> None:
    overlay, expected, written = Overlay(), bytearray(100), bytearray(100)
    for start, data in writes:
        overlay.write(start, data)
        expected[start : start + len(data)] = data
        written[start : start + len(data)] = b"\1" * len(data)
    for start, stop in ((0, 100), (13, 14), (7, 55)):
        view = bytearray(b"?" * (stop - start))
        overlay.apply(start, memoryview(view))
        expected_bytes = [expected[position] if written[position] else ord("?") for position in range(start, stop)]
        assert list(view) == expected_bytes
    stretches = [(start, start + len(data)) for start, data in overlay]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(stretches)), "disjoint and apart"


def test_a_journal_is_complete_or_absent(tmp_path: Path) -> None:
    path, extents = tmp_path / "x", Overlay()
    extents.write(5, b"hello")
    Journal(UUID, 77, extents).write(path)
    journal = Journal.read(path)
    assert journal is not None
    assert (journal.uuid, journal.eof, list(journal.overlay)) == (UUID, 77, [(5, b"hello")])
    content = Journal.beside(path).read_bytes()
    for cut in range(len(content)):
        Journal.beside(path).write_bytes(content[:cut])
        assert Journal.read(path) is None
    Journal.beside(path).write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    assert Journal.read(path) is None


class Stopped(BaseException):
    """Stands for a kill."""


def steps(path: Path, commits: list[bytes], sealed: Callable[[], None]) -> Iterator[None]:
    """The steps of a writer, with a yield where the test may stop it; see `killed_after` for stops within a step."""
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
            commits.append(bytes(content))  # from here on, this commit or the previous one
            file.commit(free)
            yield
        file.seal()
        sealed()
    finally:
        file.close()


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Raise `Stopped` in place of the n-th system call that changes the disk; a write may be half done."""

    def arm(calls: int) -> None:
        remaining = itertools.count(calls, -1)
        pwrite, fsync, truncate, replace = os.pwrite, os.fsync, os.ftruncate, Path.replace

        def stop(call: Callable[..., object]) -> Callable[..., object]:
            def wrapped(*arguments: object) -> object:
                calls_left = next(remaining)
                if calls_left == 0 and call is pwrite:
                    fd, data, at = arguments
                    pwrite(fd, data[: len(data) // 2], at)  # type: ignore[arg-type, index]
                if calls_left <= 0:
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
    if ended or not is_interrupted(path):  # killed in the last step, when the file is already complete
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
    """Equal except at free bytes."""
    if len(content) != len(commit):
        return False
    free = [(len(commit) - 500, len(commit) - 100)] if commit else []
    cleaned = bytearray(content)
    for start, stop in free:
        cleaned[start:stop] = b"?" * (stop - start)
    return bytes(cleaned) == commit


def test_a_resumed_writer_seals_the_same_file(tmp_path: Path) -> None:
    """The checksums of pages not written again are those of the complete file."""
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


def test_a_discarded_file_is_not_written(tmp_path: Path) -> None:
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


def test_a_second_writer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.storage.journal, "_LOCK_SECONDS", 0.3)
    file = AtomicFile(tmp_path / "x", UUID, fresh=True)
    with pytest.raises(UsageError, match="is being written by another process"):
        AtomicFile(tmp_path / "x", UUID, fresh=False)
    file.close()
    AtomicFile(tmp_path / "x", UUID, fresh=False).close()


def test_a_file_system_without_locks_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    AtomicFile(tmp_path / "x", UUID, fresh=True).close()


def test_resuming_requires_a_commit(tmp_path: Path) -> None:
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
def test_a_write_is_direct_only_where_no_commit_has_the_bytes(
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


def test_an_invalid_journal_is_ignored(tmp_path: Path) -> None:
    """The layout written out: magic, length, uuid, number of extents; position, length and bytes of each; checksum."""
    path = tmp_path / "x"

    def put(body: bytes) -> None:
        Journal.beside(path).write_bytes(body + xxhash.xxh3_64(body).digest())

    def number(value: int) -> bytes:
        return value.to_bytes(8, "little")

    head = b"RPNLJRN1" + number(300) + UUID.encode()
    put(head + number(0))
    empty = Journal.read(path)
    assert empty is not None
    assert (empty.uuid, empty.eof, len(empty.overlay)) == (UUID, 300, 0)
    put(head + number(2) + number(5) + number(3) + b"abc" + number(90) + number(1) + b"z")
    full = Journal.read(path)
    assert full is not None
    assert (full.eof, list(full.overlay)) == (300, [(5, b"abc"), (90, b"z")])
    full.write(tmp_path / "y")
    assert Journal.beside(tmp_path / "y").read_bytes() == Journal.beside(path).read_bytes()
    for body in (b"", head, b"RPNLJRN2" + (head + number(0))[8:]):
        put(body)
        assert Journal.read(path) is None


def test_a_journal_is_beside_the_target_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link.h5").symlink_to(tmp_path / "far" / "x.h5")
    assert Journal.beside(tmp_path / "link.h5") == (tmp_path / "far" / "x.h5.journal").resolve()
    assert Journal.read(tmp_path / "link.h5") is None
    Journal(UUID, 3).write(tmp_path / "link.h5")
    assert [entry.name for entry in (tmp_path / "far").iterdir()] == ["x.h5.journal"]


@settings(max_examples=150, deadline=None)
@given(
    rounds=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 200), st.integers(1, 70)), max_size=4),
            st.one_of(st.none(), st.integers(0, 260)),
            st.tuples(st.integers(0, 260), st.integers(0, 60)),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_sealed_file_has_the_written_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[tuple[list[tuple[int, int]], int | None, tuple[int, int], bool]],
) -> None:
    """Read back before and after each commit and after resuming; every page has the checksum of its bytes."""
    path, model = tmp_path_factory.mktemp("sealed") / "x", bytearray(UUID_TAG + UUID.encode())
    with pytest.MonkeyPatch.context() as patched:
        for module in (probes.storage.journal, probes.storage.seal):
            patched.setattr(module, "PAGE", 32)
        file = AtomicFile(path, UUID, fresh=True)
        assert file.write(memoryview(bytes(model))) == len(model)
        head, value = len(model), 0
        for writes, size, (start, length), resume in rounds:
            for at, count in writes:
                value += 1
                file.seek(head + at)
                assert file.write(memoryview(bytes([value]) * count)) == count
                assert file.tell() == head + at + count
                model.extend(bytes(max(0, head + at + count - len(model))))
                model[head + at : head + at + count] = bytes([value]) * count
            if size is not None:
                assert file.truncate(head + size) == head + size
                model[head + size :] = bytes(max(0, head + size - len(model)))
            assert all_bytes(file) == model
            free = (min(len(model), head + start), min(len(model), head + start + length))
            file.commit([free] if free[0] < free[1] else [])
            assert all_bytes(file) == model
            assert path.stat().st_size == len(model)
            if resume:
                file.close()
                file = AtomicFile(path, UUID, fresh=False)
                assert all_bytes(file) == model
        file.seal()
        file.close()
        assert not Journal.beside(path).exists()
        opened = open_bytes(path)
        assert opened is not None
        assert opened.read() == model
        opened.close()


def all_bytes(opened: AtomicFile) -> bytes:
    view = bytearray(opened.seek(0, os.SEEK_END))
    opened.seek(0)
    assert opened.readinto(memoryview(view)) == len(view)
    return bytes(view)


def test_the_footer_follows_the_format(tmp_path: Path) -> None:
    """After the content: 8 bytes per page of 64 KiB, magic, version, page size, length, uuid, checksum of all of this."""
    content = np.random.default_rng(0).bytes(2 * PAGE + 10)
    file = AtomicFile(tmp_path / "x", UUID, fresh=True)
    file.write(memoryview(content))
    file.commit()
    file.seal()
    file.close()
    sums = [xxhash.xxh3_64(content[at : at + 65536]).intdigest() for at in (0, 65536, 131072)]
    assert page_checksums(memoryview(content)) == sums
    table = b"".join(value.to_bytes(8, "little") for value in sums)
    head = b"RPNLSEAL" + (1).to_bytes(4, "little") + (65536).to_bytes(4, "little") + len(content).to_bytes(8, "little")
    footer = table + head + UUID.encode()
    assert (tmp_path / "x").read_bytes() == content + footer + xxhash.xxh3_64(footer).digest()


def test_the_position_behaves_as_in_a_regular_file(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "x", UUID, fresh=True)
    assert (file.readable(), file.writable(), file.seekable()) == (True, True, True)
    file.write(memoryview(b"0123456789"))
    file.commit()
    assert (file.seek(-3, os.SEEK_END), file.seek(-2, os.SEEK_CUR), file.seek(4), file.tell()) == (7, 5, 4, 4)
    assert file.read(3) == b"456"
    assert file.read(100) == b"789"
    assert file.read(1) == b""
    file.seek(50)
    assert file.read(1) == b"", "past the end"
    file.seek(6)
    assert file.truncate() == 6
    assert file.seek(0, os.SEEK_END) == 6
    file.close()
    file.close()
    assert (tmp_path / "x").read_bytes() == b"0123456789", "the commit holds the end"


def test_short_writes_and_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, preadv, content = os.pwrite, os.preadv, bytes(range(100))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:5]], at))
    file = AtomicFile(tmp_path / "x", UUID, fresh=True)
    file.write(memoryview(content))
    assert all_bytes(file) == content
    file.close()
    assert (tmp_path / "x").read_bytes() == content
    with (tmp_path / "x").open("rb") as raw:
        view = bytearray(50)
        assert read_at(raw.fileno(), memoryview(view), 80) == 20
        assert view == content[80:] + bytes(30)


def test_free_ranges_in_any_order_are_written_directly(tmp_path: Path) -> None:
    path = tmp_path / "x"
    file = AtomicFile(path, UUID, fresh=True)
    file.write(memoryview(b"." * 20))
    file.commit([(12, 15), (2, 5)])
    file.seek(0)
    file.write(memoryview(b"!" * 25))
    assert path.read_bytes() == b"..!!!.......!!!.....!!!!!"
    assert all_bytes(file) == b"!" * 25
    file.commit()
    assert path.read_bytes() == b"!" * 25
    file.seek(2)
    file.write(memoryview(b"?"))
    assert path.read_bytes() == b"!" * 25, "what was free is so until the next commit only"
    file.close()


def test_a_commit_is_valid_from_its_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AtomicFile(tmp_path / "x", UUID, fresh=True)
    file.write(memoryview(b"one"))
    assert file.commits == 0
    file.commit()
    assert file.commits == 1
    file.seek(0)
    file.write(memoryview(b"two"))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            file.commit()
        assert file.commits == 1
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            file.commit()
        assert file.commits == 2
    file.close()
    assert (tmp_path / "x").read_bytes() == b"one"
    file = AtomicFile(tmp_path / "x", UUID, fresh=False)
    assert all_bytes(file) == b"two"
    file.close()


@pytest.mark.parametrize(("uuid", "cut"), [("f" * 32, 0), (UUID, 1)])
def test_a_journal_of_another_or_longer_file_is_not_resumed(tmp_path: Path, uuid: str, cut: int) -> None:
    path = tmp_path / "x"
    file = AtomicFile(path, UUID, fresh=True)
    file.write(memoryview(b"0123456789"))
    file.commit()
    file.close()
    os.truncate(path, 10 - cut)
    with pytest.raises(FormatError) as caught:
        AtomicFile(path, uuid, fresh=False)
    assert str(caught.value) == f"{path} can't be continued: the journal of its last commit is not beside it."
    assert path.read_bytes() == b"0123456789"[: 10 - cut]


def test_a_refused_file_is_closed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.storage.journal, "_LOCK_SECONDS", 0.0)
    (tmp_path / "x").write_bytes(b"something")
    with pytest.raises(FormatError) as caught:
        AtomicFile(tmp_path / "x", UUID, fresh=False)
    assert caught.value.__traceback__ is not None  # references the refused object, so it is not collected
    AtomicFile(tmp_path / "x", UUID, fresh=True).close()


@pytest.mark.parametrize("change", ["longer", "removed", "replaced"])
def test_a_file_changed_while_waiting_for_the_lock_is_refused(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"before")

    def wait(*_: object) -> None:
        if change == "longer":
            path.write_bytes(b"another's")
        if change == "removed":
            path.unlink()
        if change == "replaced":
            (tmp_path / "y").write_bytes(b"after!")
            (tmp_path / "y").replace(path)

    monkeypatch.setattr(probes.storage.journal, "_lock", wait)
    with pytest.raises(UsageError) as caught:
        AtomicFile(path, UUID, fresh=True)
    assert str(caught.value) == f"{path} was written by another process just now; nothing was changed."
    assert Journal.read(path) is None
    if change != "removed":
        assert path.read_bytes() == {"longer": b"another's", "replaced": b"after!"}[change]


def test_a_new_file_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    file = AtomicFile(path, UUID, fresh=True)
    assert path.read_bytes() == b""
    begun = Journal.read(path)
    assert begun is not None
    assert (begun.uuid, begun.eof) == (UUID, 0)
    assert all_bytes(file) == b""
    file.close()


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    for name, umask, mode in (("x", 0o027, 0o640), ("y", 0, 0o666)):
        before = os.umask(umask)
        try:
            AtomicFile(tmp_path / name, UUID, fresh=True).close()
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


@pytest.mark.parametrize(("code", "tries"), [("EWOULDBLOCK", 9), ("ENOTSUP", 1), ("ENOSYS", 1), ("ENOLCK", 1)])
def test_a_lock_is_waited_for_where_locks_are_supported(
    tmp_path: Path, code: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    asked, waits, path = [], [], tmp_path / "x"

    def refuse(_: int, operation: int) -> None:
        asked.append(operation)
        raise OSError(getattr(errno, code), "refused")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr(probes.storage.journal, "_LOCK_SECONDS", 2.0)
    if tries == 1:
        AtomicFile(path, UUID, fresh=True).close()
    else:
        with pytest.raises(UsageError) as caught:
            AtomicFile(path, UUID, fresh=True)
        assert str(caught.value) == f"{path} is being written by another process; wait for it, or give another name."
        assert isinstance(caught.value.__cause__, OSError)
    assert asked == [fcntl.LOCK_EX | fcntl.LOCK_NB] * tries, "at once, and after every wait"
    assert sum(waits) == (tries - 1) / 4


def test_a_discarded_file_accepts_writes_without_effect(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "x", UUID, fresh=True)
    file.write(memoryview(b"one"))
    file.commit()
    file.seek(0)
    file.write(memoryview(b"two"))
    file.discard()
    assert (file.write(memoryview(b"four")), file.tell(), file.truncate(2), file.seek(0, os.SEEK_END)) == (4, 7, 2, 3)
    file.seek(0)
    assert file.read(3) == b"one", "what was held is gone"
    file.close()
    assert (tmp_path / "x").read_bytes() == b"one"


@pytest.mark.parametrize("size", [3, 5])
def test_truncated_bytes_do_not_return_when_the_file_grows(tmp_path: Path, size: int) -> None:
    file = AtomicFile(tmp_path / "x", UUID, fresh=True)
    file.write(memoryview(b"123"))
    file.commit()
    file.write(memoryview(b"4567890"))
    file.truncate(size)
    file.truncate(10)
    assert all_bytes(file) == b"1234567890"[:size] + bytes(10 - size)
    file.close()
