"""After a power cut the file is at a commit: tested on every possible state of the disk.

After a power cut any subset of the system calls since the last fsync may be on disk: some writes and not others, a rename
without the content of the file it names. `Disk` records every call of a writer and derives those states.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from probes.storage import journal, seal
from probes.storage.journal import AtomicFile, Journal, install
from probes.storage.seal import UUID_TAG, is_interrupted, open_bytes

UUID = "0123456789abcdef" * 2
HEAD = UUID_TAG + UUID.encode()
SECTOR = 512  # the unit that a disk writes atomically

Change = tuple[int, bytes] | int  # a write at a position, or a new length


@dataclass(frozen=True)
class Moment:
    """What is certainly on disk, what may be, and which commits may be read after a power cut now."""

    content: bytes
    changes: tuple[Change, ...]
    journal: bytes | None
    renames: tuple[bytes | None, ...]
    first: int
    last: int
    sealed: bool


@dataclass
class Disk:
    """The calls that change the file `x` of a folder and its journal, and what is certainly on disk after each."""

    folder: Path
    content: bytes = b""
    journal: bytes | None = None
    changes: list[Change] = field(default_factory=list)
    renames: list[bytes | None] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    commits: list[bytes] = field(default_factory=lambda: [b""])
    returned: int = 0  # commits that have returned
    sealed: bool = False
    synced: set[str] = field(default_factory=set)

    def record(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Record every call from here on."""
        pwrite, fsync, truncate, replace, unlink = os.pwrite, os.fsync, os.ftruncate, Path.replace, Path.unlink

        def noted_pwrite(fd: int, data: bytes, at: int) -> int:
            content = bytes(data)
            bounds = [at, *range((at // SECTOR + 1) * SECTOR, at + len(content), SECTOR), at + len(content)]
            for start, stop in pairwise(bounds):
                self.changes.append((start, content[start - at : stop - at]))
            self.note("write", f"{at}+{len(content)}")
            return pwrite(fd, data, at)

        def noted_truncate(fd: int, size: int) -> None:
            self.changes.append(size)
            self.note("truncate", str(size))
            truncate(fd, size)

        def noted_fsync(fd: int) -> None:
            name = self.name(fd)
            fsync(fd)
            if name == "folder":
                self.journal, self.renames = [self.journal, *self.renames][-1], []
            elif name == "x":
                self.content, self.changes = changed(self.content, self.changes), []
            else:
                self.synced.add(name)
            self.note("sync", name)

        def noted_replace(path: Path, target: Path) -> Path:
            self.renames.append(path.read_bytes() if path.name in self.synced else b"")
            self.synced.discard(path.name)
            result = replace(path, target)
            self.note("rename", f"{path.name} {target.name}")
            return result

        def noted_unlink(path: Path, *, missing_ok: bool = False) -> None:
            self.renames.append(None)
            unlink(path, missing_ok=missing_ok)
            self.note("unlink", path.name)

        for owner, name, call in (
            (os, "pwrite", noted_pwrite), (os, "ftruncate", noted_truncate), (os, "fsync", noted_fsync),
            (Path, "replace", noted_replace), (Path, "unlink", noted_unlink),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, call)

    def name(self, fd: int) -> str:
        """The name of an open file in the folder."""
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            return "folder"
        return next(entry.name for entry in self.folder.iterdir() if os.path.samestat(entry.stat(), status))

    def note(self, call: str, detail: str) -> None:
        """Record a call, and the moment after it."""
        self.calls.append(f"{call} {detail}")
        self.moments.append(self.moment())

    def moment(self) -> Moment:
        """The state of the disk at a power cut now."""
        return Moment(
            self.content, tuple(self.changes), self.journal, tuple(self.renames), self.returned, len(self.commits) - 1,
            self.sealed,
        )  # fmt: skip


def changed(content: bytes, changes: list[Change] | tuple[Change, ...]) -> bytes:
    """The content after some changes."""
    result = bytearray(content)
    for change in changes:
        if isinstance(change, int):
            result[change:] = bytes(max(0, change - len(result)))
        else:
            at, data = change
            result.extend(bytes(max(0, at - len(result))))
            result[at : at + len(data)] = data
    return bytes(result)


def outcomes(moment: Moment) -> Iterator[tuple[bytes, bytes | None]]:
    """The content and the journal that a power cut may leave, with none, one, all but one or all of the pending changes."""
    changes = moment.changes
    sizes = range(len(changes) + 1) if len(changes) < 6 else (0, 1, len(changes) - 1, len(changes))
    for size in sizes:
        for part in combinations(changes, size):
            content = changed(moment.content, part)
            for journal_bytes in {moment.journal, *moment.renames}:
                yield content, journal_bytes


def write(file: AtomicFile, model: bytearray, start: int, data: bytes) -> None:
    """Write to the file and to the bytes expected in it."""
    file.seek(start)
    file.write(memoryview(data))
    model.extend(bytes(max(0, start + len(data) - len(model))))
    model[start : start + len(data)] = data


def commit(disk: Disk, file: AtomicFile, model: bytearray, free: tuple[int, int] = (0, 0)) -> None:
    """Commit; free bytes are arbitrary, and question marks in the expected bytes."""
    content = bytearray(model)
    content[free[0] : free[1]] = b"?" * (free[1] - free[0])
    disk.commits.append(bytes(content))
    file.commit([free] if free[0] < free[1] else [])
    disk.returned = len(disk.commits) - 1
    disk.moments.append(disk.moment())


def same(content: bytes, expected: bytes) -> bool:
    """Equal but for what is free."""
    return len(content) == len(expected) and all(a == b for a, b in zip(content, expected, strict=True) if b != ord("?"))


def letters(seed: int, size: int) -> bytes:
    """Bytes without a question mark."""
    return np.random.default_rng(seed).integers(128, 256, size, dtype=np.uint8).tobytes()


def life(disk: Disk) -> None:
    """First commit, later commits (overwriting, filling free bytes, longer, shorter), a stop, resuming, the seal."""
    path, model = disk.folder / "x", bytearray()
    file = AtomicFile(path, UUID, fresh=True)
    write(file, model, 0, HEAD + letters(1, 1000))
    commit(disk, file, model, (700, 900))
    write(file, model, 750, letters(2, 100))
    write(file, model, 60, letters(3, 40))
    write(file, model, 600, letters(4, 80))
    write(file, model, len(model), letters(5, 1200))
    commit(disk, file, model)
    write(file, model, 500, letters(6, 300))
    file.truncate(1500)
    del model[1500:]
    commit(disk, file, model)
    write(file, model, 1400, letters(7, 900))  # not committed: lost
    file.close()
    end_of_life(disk)


def end_of_life(disk: Disk) -> None:
    """Resume from the last commit, and complete the file."""
    file = AtomicFile(disk.folder / "x", UUID, fresh=False)
    model = bytearray(file.seek(0, os.SEEK_END))
    file.seek(0)
    file.readinto(memoryview(model))
    write(file, model, 0, HEAD)
    write(file, model, 70, letters(8, 20))
    write(file, model, 1500, letters(9, 1000 + 5 * SECTOR))
    commit(disk, file, model)
    write(file, model, 300, letters(10, 50))
    commit(disk, file, model)
    file.seal()
    disk.sealed = True
    disk.moments.append(disk.moment())
    file.close()


def is_at_a_commit(folder: Path, commits: list[bytes], moment: Moment) -> None:
    """Assert that every state after a power cut at a moment is a commit."""
    path = folder / "x"
    for content, journal_bytes in outcomes(moment):
        path.write_bytes(content)
        Journal.beside(path).unlink(missing_ok=True)
        if journal_bytes is not None:
            Journal.beside(path).write_bytes(journal_bytes)
        if journal_bytes is None and not content and not moment.first:
            continue  # before the first commit
        interrupted = is_interrupted(path)
        assert not (interrupted and moment.sealed and journal_bytes is None)
        if interrupted:
            file: AtomicFile | seal.RawFile | None = AtomicFile(path, UUID, fresh=False)
        else:
            file = open_bytes(path)
        assert file is not None
        read = file.read()
        file.close()
        assert any(same(read, expected) for expected in commits[moment.first : moment.last + 1])


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages, so that the table of checksums fills more than a sector."""
    monkeypatch.setattr(journal, "PAGE", 32)
    monkeypatch.setattr(seal, "PAGE", 32)


@pytest.mark.usefixtures("small_pages")
def test_a_power_cut_leaves_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cut = tmp_path / "disk", tmp_path / "cut"
    folder.mkdir()
    cut.mkdir()
    disk = Disk(folder)
    with monkeypatch.context() as patched:
        disk.record(patched)
        life(disk)
    assert len(disk.commits) == 6
    for moment in disk.moments:
        is_at_a_commit(cut, disk.commits, moment)


@pytest.mark.usefixtures("small_pages")
def test_a_power_cut_after_resuming_from_a_power_cut_leaves_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, resumed, cut = tmp_path / "disk", tmp_path / "again", tmp_path / "cut"
    for name in (folder, resumed, cut):
        name.mkdir()
    disk = Disk(folder)
    with monkeypatch.context() as patched:
        disk.record(patched)
        life(disk)
    states = {(moment.content, moment.journal) for moment in disk.moments if moment.first}
    assert len(states) > 6
    for content, journal_bytes in states:
        if journal_bytes is None:
            continue  # the file is complete
        (resumed / "x").write_bytes(content)
        Journal.beside(resumed / "x").write_bytes(journal_bytes)
        promised = Journal.read(resumed / "x")
        assert promised is not None
        base = bytearray(content[: promised.eof])
        for start, data in promised.overlay:
            base[start : start + len(data)] = data
        second = Disk(resumed, content, journal_bytes, commits=[bytes(base[: promised.eof])])
        with monkeypatch.context() as patched:
            second.record(patched)
            end_of_life(second)
        for moment in second.moments:
            is_at_a_commit(cut, second.commits, moment)


def order(disk: Disk, act: Callable[[], object]) -> list[str]:
    """The calls of one operation, without positions."""
    start = len(disk.calls)
    act()
    return [call if call.split()[0] in ("sync", "rename", "unlink") else call.split()[0] for call in disk.calls[start:]]


COMMITTED = ["sync x.journal.tmp", "rename x.journal.tmp x.journal", "sync folder"]


def test_every_step_is_on_disk_before_a_step_that_depends_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path)
    path = tmp_path / "x"
    disk.record(monkeypatch)
    files: list[AtomicFile] = []
    assert order(disk, lambda: files.append(AtomicFile(path, UUID, fresh=True))) == [*COMMITTED, *COMMITTED, "truncate"]
    file = files.pop()
    assert order(disk, lambda: file.write(memoryview(b"12345678"))) == ["write"]
    assert order(disk, file.commit) == ["sync x", *COMMITTED, "truncate"]
    file.seek(2)
    assert order(disk, lambda: file.write(memoryview(b"ab"))) == [], "a commit holds these bytes"
    assert order(disk, lambda: file.truncate(6)) == [], "a commit holds the end"
    assert order(disk, file.commit) == ["sync x", *COMMITTED, "write", "truncate"]
    assert order(disk, file.close) == []
    assert order(disk, lambda: files.append(AtomicFile(path, UUID, fresh=False))) == ["write", "truncate"]
    file = files.pop()
    assert order(disk, file.seal) == ["write", "sync x", "write", "sync x", "unlink x.journal", "sync folder"]
    file.close()


def test_a_file_is_in_place_before_the_journal_of_the_old_one_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far").mkdir()
    real, link, draft = tmp_path / "far" / "x", tmp_path / "link", tmp_path / "far" / "x.part"
    real.write_bytes(b"old")
    link.symlink_to(real)
    draft.write_bytes(b"new")
    Journal(UUID, 3).write(real)
    disk = Disk(tmp_path / "far")
    disk.record(monkeypatch)
    assert order(disk, lambda: install(draft, link)) == ["rename x.part x", "sync folder", "unlink x.journal"]
    assert link.is_symlink()
    assert sorted(entry.name for entry in real.parent.iterdir()) == ["x"]
    assert real.read_bytes() == b"new"


def test_a_file_is_put_in_place_without_an_old_journal(tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"new")
    install(tmp_path / "x.part", tmp_path / "x")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("x", b"new")]
