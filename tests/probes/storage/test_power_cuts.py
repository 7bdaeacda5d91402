"""After a power cut the file is at a commit: tried on every state in which the disk may be left.

A power cut keeps of the system calls since the last fsync any part: some writes and not others, a rename without the content
of the file that it names. `Disk` notes every call of a writer and derives those states.
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
SECTOR = 512  # what a disk writes as a whole

Change = tuple[int, bytes] | int  # a write at a position, or a new length


@dataclass(frozen=True)
class Moment:
    """What is safe on disk, what may be or not, and which commits may be read after a power cut now."""

    content: bytes
    changes: tuple[Change, ...]
    journal: bytes | None
    renames: tuple[bytes | None, ...]
    first: int
    last: int
    sealed: bool


@dataclass
class Disk:
    """The calls that change the file `x` of a folder and its journal, and what is known to be on disk after each."""

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
        """Note every call from here on."""
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
        """The name under which an open file lies in the folder."""
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            return "folder"
        return next(entry.name for entry in self.folder.iterdir() if os.path.samestat(entry.stat(), status))

    def note(self, call: str, detail: str) -> None:
        """Note a call, and the moment after it."""
        self.calls.append(f"{call} {detail}")
        self.moments.append(self.moment())

    def moment(self) -> Moment:
        """What a power cut would meet now."""
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
    """The content and the journal that a power cut may leave; of many changes none, one, all but one or all are in it."""
    changes = moment.changes
    sizes = range(len(changes) + 1) if len(changes) < 6 else (0, 1, len(changes) - 1, len(changes))
    for size in sizes:
        for part in combinations(changes, size):
            content = changed(moment.content, part)
            for beside in {moment.journal, *moment.renames}:
                yield content, beside


def write(file: AtomicFile, model: bytearray, start: int, data: bytes) -> None:
    """Write to the file, and to the bytes that it should hold."""
    file.seek(start)
    file.write(memoryview(data))
    model.extend(bytes(max(0, start + len(data) - len(model))))
    model[start : start + len(data)] = data


def commit(disk: Disk, file: AtomicFile, model: bytearray, free: tuple[int, int] = (0, 0)) -> None:
    """Commit; what is free is of no consequence, and holds question marks in what is expected."""
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
    """First commit, later ones (overwriting, filling what is free, longer, shorter), a stop, going on, the seal."""
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
    """Go on from the last commit, and complete the file."""
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
    """Read what every power cut of a moment leaves."""
    path = folder / "x"
    for content, beside in outcomes(moment):
        path.write_bytes(content)
        Journal.beside(path).unlink(missing_ok=True)
        if beside is not None:
            Journal.beside(path).write_bytes(beside)
        if beside is None and not content and not moment.first:
            continue  # before anything was promised
        interrupted = is_interrupted(path)
        assert not (interrupted and moment.sealed and beside is None)
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
    """Pages so small that the table of checksums fills more than a sector."""
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
def test_a_power_cut_after_going_on_from_a_power_cut_leaves_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, again, cut = tmp_path / "disk", tmp_path / "again", tmp_path / "cut"
    for name in (folder, again, cut):
        name.mkdir()
    disk = Disk(folder)
    with monkeypatch.context() as patched:
        disk.record(patched)
        life(disk)
    states = {(moment.content, moment.journal) for moment in disk.moments if moment.first}
    assert len(states) > 6
    for content, beside in states:
        if beside is None:
            continue  # the file is complete
        (again / "x").write_bytes(content)
        Journal.beside(again / "x").write_bytes(beside)
        promised = Journal.read(again / "x")
        assert promised is not None
        base = bytearray(content[: promised.eof])
        for start, data in promised.overlay:
            base[start : start + len(data)] = data
        second = Disk(again, content, beside, commits=[bytes(base[: promised.eof])])
        with monkeypatch.context() as patched:
            second.record(patched)
            end_of_life(second)
        for moment in second.moments:
            is_at_a_commit(cut, second.commits, moment)


def order(disk: Disk, act: Callable[[], object]) -> list[str]:
    """The calls of one act, without positions."""
    start = len(disk.calls)
    act()
    return [call if call.split()[0] in ("sync", "rename", "unlink") else call.split()[0] for call in disk.calls[start:]]


COMMITTED = ["sync x.journal.tmp", "rename x.journal.tmp x.journal", "sync folder"]


def test_every_step_is_on_disk_before_the_next_relies_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_is_in_its_place_before_the_journal_of_the_old_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_takes_a_place_where_there_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"new")
    install(tmp_path / "x.part", tmp_path / "x")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("x", b"new")]
