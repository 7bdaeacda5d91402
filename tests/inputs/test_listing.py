"""Folders and archives: which files count, files left by operating systems, and truncated archives."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from probes.errors import DataError, FormatError
from repanalysis.inputs.listing import files_of, members_of

PNG = {".png"}


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


KEPT = ["cat/1.png", "cat/2.PNG", "dog/deep/3.png"]
LEFT = [
    ".ipynb_checkpoints/1-checkpoint.png", "cat/.ipynb_checkpoints/1.png", "cat/._1.png", "__MACOSX/cat/._1.png",
    "__MACOSX/cat/1.png", "cat/.hidden.png", "cat/Thumbs.db", "cat/.DS_Store", "cat/@eaDir/1.png/thumb.png", "cat/notes.txt",
]  # fmt: skip


def packed(path: Path, root: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.add(root, ".")
    return path


def test_files_left_by_operating_systems_are_ignored(tmp_path: Path) -> None:
    """Regression: `.ipynb_checkpoints` became class 0, and `._x.png` stopped the run."""
    root = put(tmp_path / "set", *KEPT, *LEFT)
    assert files_of(root, PNG) == KEPT
    hidden = put(tmp_path / ".cache" / "set", *KEPT)
    assert files_of(hidden, PNG) == KEPT  # the location of the folder does not matter
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        archive = packed(tmp_path / f"set{mode[2:]}.tar", root, mode)
        images = {member.name: member.read() for member in members_of(archive, PNG) if member.name.lower().endswith(".png")}
        assert images == {name: name.encode() for name in KEPT}
        assert all((member.place is None) == (mode != "w" or member.name not in KEPT) for member in members_of(archive, PNG))


def test_links_to_folders_are_followed_without_cycles(tmp_path: Path) -> None:
    root = put(tmp_path / "set", "cat/1.png")
    target = put(tmp_path / "elsewhere", "2.png", "more/3.png")
    (root / "dog").symlink_to(target)
    (root / "cat" / "again").symlink_to(root)
    (target / "more" / "round").symlink_to(target)
    (root / "self").symlink_to(root / "self")
    assert files_of(root, PNG) == ["cat/1.png", "dog/2.png", "dog/more/3.png"]


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    root = put(tmp_path / "set", "cat/1.png")
    (root / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cat/2.png is a link to nothing"):
        files_of(root, PNG)
    (root / "cat" / "2.png").unlink()
    os.mkfifo(root / "cat" / "3.png")
    with pytest.raises(DataError, match=r"cat/3.png is not a plain file"):
        files_of(root, PNG)


def images_of(path: Path) -> dict[str, bytes]:
    return {member.name: member.read() for member in members_of(path, PNG)}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_truncated_archive_is_refused_at_every_length(kind: str, form: int, tmp_path: Path) -> None:
    """Regression: 22 of 76 truncations, between two files or within a header, were read as fewer images."""
    path = tmp_path / f"x.{kind}"
    long = "a" * 60 + "/" + "b" * 90  # PAX and GNU write it into a separate header
    with tarfile.open(path, f"w:{kind[4:]}", format=form) as tar:  # type: ignore[call-overload]
        for name, size in (("cat/1.png", 0), ("cat/2.png", 700), (f"{long}/3.png", 512), ("dog/4.png", 1)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO((os.urandom(size) + b"\1")[-size:] if size else b""))  # no 0 at the end
    content = path.read_bytes()
    expected = images_of(path)
    assert len(expected) == 4
    last = len(content.rstrip(b"\0")) if kind == "tar" else len(content)
    end = -(-last // 512) * 512 + 1024 if kind == "tar" else len(content)
    cuts = sorted(
        {*range(0, len(content), 512), *range(1, len(content), 61), *range(max(0, end - 5), min(end + 5, len(content)))}
    )
    for cut in cuts:
        path.write_bytes(content[:cut])
        if kind == "tar" and cut >= end and cut % 512 == 0:
            assert images_of(path) == expected  # only padding of the last record is missing
        else:
            with pytest.raises(FormatError, match="x.tar.* (was cut off|can't be read as a tar archive)"):
                images_of(path)


def test_a_damaged_header_does_not_end_the_archive_silently(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.tar", put(tmp_path / "set", *KEPT))
    content = bytearray(path.read_bytes())
    at = content.index(b"cat/2.PNG")
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match="x.tar"):
        images_of(path)


def add(tar: tarfile.TarFile, name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"1") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    tar.addfile(info, io.BytesIO(content) if info.size else None)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([{"name": "a.png"}, {"name": "a.png"}], "holds a.png twice"),
        ([{"name": "a.png"}, {"name": "./a.png"}], "holds a.png twice"),
        ([{"name": "/etc/a.png"}], "/etc/a.png lies outside"),
        ([{"name": "x/../../a.png"}], r"x/../../a.png lies outside"),
        ([{"name": "a.png", "kind": tarfile.SYMTYPE, "link": "/etc/passwd"}], "a.png is a link or a device"),
        ([{"name": "a.png", "kind": tarfile.LNKTYPE, "link": "gone.png"}], "a.png is a link or a device"),
        ([{"name": "a.png", "kind": tarfile.FIFOTYPE}], "a.png is a link or a device"),
    ],
)
def test_ambiguous_names_and_links_are_refused(entries: list[dict[str, object]], sentence: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for entry in entries:
            add(tar, **entry)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=sentence):
        images_of(tmp_path / "x.tar")


def test_a_hard_link_is_read_as_its_target(tmp_path: Path) -> None:
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
            add(tar, "./a.png", content=b"abc")
            add(tar, "./b/c.png", kind=tarfile.LNKTYPE, link="./a.png")
        assert images_of(tmp_path / name) == {"a.png": b"abc", "b/c.png": b"abc"}


def test_concatenated_archives_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "x.tar", put(tmp_path / "set", "a.png")).read_bytes()
    (tmp_path / "y.tar").write_bytes(archive + archive)
    (tmp_path / "y.tar.gz").write_bytes(gzip.compress(archive) + gzip.compress(archive))
    for name in ("y.tar", "y.tar.gz"):
        with pytest.raises(FormatError, match="goes on behind its end, as archives do that were joined"):
            images_of(tmp_path / name)
