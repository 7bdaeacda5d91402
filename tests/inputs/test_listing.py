"""Folders and archives: what counts, what is left behind by systems, and every cut of an archive."""

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


def test_what_systems_leave_behind_does_not_count(tmp_path: Path) -> None:
    """`.ipynb_checkpoints` became class 0, and `._x.png` stopped the run."""
    root = put(tmp_path / "set", *KEPT, *LEFT)
    assert files_of(root, PNG) == KEPT
    hidden = put(tmp_path / ".cache" / "set", *KEPT)
    assert files_of(hidden, PNG) == KEPT  # where the folder itself lies is nobody's business
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        archive = packed(tmp_path / f"set{mode[2:]}.tar", root, mode)
        images = {member.name: member.read() for member in members_of(archive, PNG) if member.name.lower().endswith(".png")}
        assert images == {name: name.encode() for name in KEPT}
        assert all((member.place is None) == (mode != "w" or member.name not in KEPT) for member in members_of(archive, PNG))


def test_links_to_folders_are_entered_but_not_in_circles(tmp_path: Path) -> None:
    root = put(tmp_path / "set", "cat/1.png")
    other = put(tmp_path / "elsewhere", "2.png", "more/3.png")
    (root / "dog").symlink_to(other)
    (root / "cat" / "again").symlink_to(root)
    (other / "more" / "round").symlink_to(other)
    (root / "self").symlink_to(root / "self")
    assert files_of(root, PNG) == ["cat/1.png", "dog/2.png", "dog/more/3.png"]


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    root = put(tmp_path / "set", "cat/1.png")
    (root / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cat/2.png is a link to nothing"):
        files_of(root, PNG)
    (root / "cat" / "2.png").unlink()
    os.mkfifo(root / "cat" / "3.png")
    with pytest.raises(DataError, match=r"cat/3.png is no plain file"):
        files_of(root, PNG)


def images_of(path: Path) -> dict[str, bytes]:
    return {member.name: member.read() for member in members_of(path, PNG)}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_archive_that_was_cut_off_is_refused_at_every_cut(kind: str, form: int, tmp_path: Path) -> None:
    """22 of 76 cuts of a plain archive were read as fewer images: those between two files, and those within a header."""
    path = tmp_path / f"x.{kind}"
    long = "a" * 60 + "/" + "b" * 90  # PAX and GNU write it into a header of its own
    with tarfile.open(path, f"w:{kind[4:]}", format=form) as tar:  # type: ignore[call-overload]
        for name, size in (("cat/1.png", 0), ("cat/2.png", 700), (f"{long}/3.png", 512), ("dog/4.png", 1)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(os.urandom(size)))
    content = path.read_bytes()
    whole = images_of(path)
    assert len(whole) == 4
    last = len(content.rstrip(b"\0")) if kind == "tar" else len(content)
    end = -(-last // 512) * 512 + 1024 if kind == "tar" else len(content)
    cuts = sorted(
        {*range(0, len(content), 512), *range(1, len(content), 61), *range(max(0, end - 5), min(end + 5, len(content)))}
    )
    for cut in cuts:
        path.write_bytes(content[:cut])
        if kind == "tar" and cut >= end and cut % 512 == 0:
            assert images_of(path) == whole  # of what only fills the last record, nothing is missed
        else:
            with pytest.raises(FormatError, match="x.tar.* (was cut off|can't be read as a tar archive)"):
                images_of(path)


def test_a_damaged_header_ends_nothing_silently(tmp_path: Path) -> None:
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
def test_names_and_links_that_would_mix_images_up_are_refused(
    entries: list[dict[str, object]], sentence: str, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for entry in entries:
            add(tar, **entry)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=sentence):
        images_of(tmp_path / "x.tar")


def test_a_hard_link_is_the_file_that_it_is_a_link_to(tmp_path: Path) -> None:
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
            add(tar, "./a.png", content=b"abc")
            add(tar, "./b/c.png", kind=tarfile.LNKTYPE, link="./a.png")
        assert images_of(tmp_path / name) == {"a.png": b"abc", "b/c.png": b"abc"}


def test_archives_joined_end_to_end_are_refused(tmp_path: Path) -> None:
    one = packed(tmp_path / "x.tar", put(tmp_path / "set", "a.png")).read_bytes()
    (tmp_path / "y.tar").write_bytes(one + one)
    (tmp_path / "y.tar.gz").write_bytes(gzip.compress(one) + gzip.compress(one))
    for name in ("y.tar", "y.tar.gz"):
        with pytest.raises(FormatError, match="goes on behind its end, as archives do that were joined"):
            images_of(tmp_path / name)
