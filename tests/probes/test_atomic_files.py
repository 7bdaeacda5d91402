"""Files that are complete or absent at every moment, and a check that no code writes files differently."""

from __future__ import annotations

import ast
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes import UsageError
from probes.atomic_files import locked, plain_file, replacing, sync_folder

ROOT = Path(__file__).parents[2]


def put(path: Path, text: str) -> None:
    with replacing(path) as draft:
        draft.write_text(text)


def test_the_old_file_is_kept_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.csv"
    with replacing(path) as draft:
        assert draft.parent == path.parent
        assert draft.suffix == ".csv"
        assert draft.name.startswith(".t-")
        draft.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with replacing(path) as draft:
        draft.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert [file.name for file in path.parent.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_failure_leaves_the_old_file_and_no_draft(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "t.csv").write_text("old")
    for name in ("t.csv", "fresh.csv"):
        with pytest.raises(failure), replacing(tmp_path / name) as draft:
            draft.write_text("half")
            raise failure
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]
    assert (tmp_path / "t.csv").read_text() == "old"


def test_content_is_synced_before_the_rename_and_the_rename_before_returning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(fd: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else f"content {os.fstat(fd).st_size}")
        real_sync(fd)

    def replace(source: str, target: str) -> None:
        calls.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    put(tmp_path / "t", "12345")
    assert calls == ["content 5", "rename", "folder"]


def test_special_files_are_refused_and_unchanged(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        (tmp_path / "link").symlink_to(tmp_path / "pipe")
        names = {"pipe": "a pipe", "folder": "a folder", "socket": "a socket", "link": "a pipe", "/dev/null": "a device"}
        for name, kind in names.items():
            before = (tmp_path / name).stat()
            with pytest.raises(UsageError, match=f"is {kind}; name a"), replacing(tmp_path / name):
                raise AssertionError("nothing is begun")
            assert (tmp_path / name).stat().st_ino == before.st_ino


def test_a_link_is_kept_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "blob").write_text("old")
    link = tmp_path / "figure.svg"
    link.symlink_to(Path("far") / "blob")
    with replacing(link) as draft:
        assert draft.suffix == ".svg"  # savers choose the format by it
        draft.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "far" / "blob").read_text() == "new"
    assert plain_file(link) == (tmp_path / "far" / "blob").resolve()
    dangling = tmp_path / "later.csv"
    dangling.symlink_to("nowhere.csv")
    put(dangling, "x")
    assert (tmp_path / "nowhere.csv").read_text() == "x"
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="loop"), replacing(loop):
        raise AssertionError("nothing is begun")


def test_permissions_are_those_of_the_old_file_or_of_the_umask(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("")
    (tmp_path / "old").chmod(0o750)
    before = os.umask(0o027)
    try:
        put(tmp_path / "old", "x")
        put(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old", "new")] == [0o750, 0o640]
    (tmp_path / "old").chmod(0o600)
    with replacing(tmp_path / "old") as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600, "nobody reads along"


def test_a_draft_is_writable_for_its_owner_whatever_the_old_permissions(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(0o060)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "access", lambda *_: True)  # as a member of the file's group
        with replacing(tmp_path / "old") as draft:
            assert stat.S_IMODE(draft.stat().st_mode) & 0o700 == 0o600
            draft.write_text("new")
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o060


def test_a_read_only_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").write_text("old")
    (tmp_path / "t").chmod(0o400)
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (mode == os.W_OK and Path(path).name == "t")
    )  # root may write any file
    with pytest.raises(PermissionError, match="read-only"):
        put(tmp_path / "t", "new")
    assert (tmp_path / "t").read_text() == "old"


def test_names_of_maximal_length_and_any_character_are_written(tmp_path: Path) -> None:
    for name in ["ä" * 125 + ".csv", "x" * 255, "a." + "y" * 253, "[*]?.csv", ".hidden", "new\nline.svg"]:
        put(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
    with pytest.raises(OSError, match="t" * 256):  # the system's message, with the user's file name
        put(tmp_path / ("t" * 256), "x")


def test_system_errors_name_the_users_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*t\.csv'") as error, replacing(tmp_path / "t.csv"):
        raise OSError(28, "No space left on device")
    assert error.value.filename == str(tmp_path / "t.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        put(tmp_path / "file" / "below.csv", "x")


def test_only_drafts_of_killed_processes_are_removed(tmp_path: Path) -> None:
    code = f"""if True:
        import os, signal, sys
        from probes.atomic_files import replacing
        with replacing({str(tmp_path / "t.csv")!r}) as draft:
            draft.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (orphan,) = tmp_path.iterdir()
    assert orphan.read_text() == "half"
    users_file = tmp_path / ".t-user.part.csv"
    users_file.write_text("no draft of ours")
    with replacing(tmp_path / "t.csv") as first:
        assert not orphan.exists()
        first.write_text("first")
        put(tmp_path / "t.csv", "second")  # a concurrent writer
        assert first.read_text() == "first"
    assert (tmp_path / "t.csv").read_text() == "first"
    assert sorted(file.name for file in tmp_path.iterdir()) == [users_file.name, "t.csv"]


def test_a_folder_is_locked_by_one_process(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UsageError, match="is being written by another process"), locked(tmp_path):
        raise AssertionError("it is held")
    with locked(tmp_path):
        pass
    sync_folder(tmp_path / "missing")  # not all systems can open folders


# All code that writes a file must write a draft. HDF5 files have a journal instead.
JOURNALLED = {"probes/storage/journal.py", "probes/storage/writer.py", "repanalysis/networks/redunet/layer_files.py"}
SAVERS = {
    "to_csv", "to_parquet", "to_json", "to_pickle", "to_excel", "to_html", "to_feather", "to_hdf", "to_netcdf", "to_zarr",
    "write_h5ad", "savefig", "imsave", "write_text", "write_bytes", "save_file", "serialize_file", "savez", "savez_compressed",
    "savetxt", "tofile", "dump", "write_table", "write_html", "write_image", "copy", "copyfile", "move", "rename",
}  # fmt: skip
LIBRARIES = {"torch", "np", "image", "shutil"}  # libraries whose `save` or `copy` writes a file
OURS = {"self", "table", "similarity"}  # instances of classes whose savers write drafts


def in_place(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that write a file under its final name."""
    drafts: dict[ast.AST, set[str]] = {}

    def visit(node: ast.AST, names: set[str]) -> None:
        if isinstance(node, ast.With):
            names = names | {
                item.optional_vars.id
                for item in node.items
                if isinstance(item.context_expr, ast.Call)
                and ast.unparse(item.context_expr.func) == "replacing"
                and isinstance(item.optional_vars, ast.Name)
            }
        drafts[node] = names
        for child in ast.iter_child_nodes(node):
            visit(child, names)

    visit(tree, set())
    for node, names in drafts.items():
        if isinstance(node, ast.Call) and writes(node):
            used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            if not used & names and "os.devnull" not in ast.unparse(node):
                yield node


def writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name == "open":
        modes = [*call.args[:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        return any(
            isinstance(mode, ast.Constant)
            and isinstance(mode.value, str)
            and len(mode.value) < 4
            and set(mode.value) & set("wax+")
            for mode in modes
        )
    if name == "copy":  # numpy copies arrays
        return owner in LIBRARIES - {"np", "numpy"}
    if name == "save":
        return owner in LIBRARIES
    return name in SAVERS and not (name in ("to_csv", "to_parquet") and owner in OURS)


def test_no_code_writes_directly_to_the_final_name() -> None:
    files = [path for package in ("probes", "repanalysis") for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        if (name := path.relative_to(ROOT).as_posix()) not in JOURNALLED:
            calls = [ast.unparse(call) for call in in_place(ast.parse(path.read_text(encoding="utf-8")))]
            assert not calls, f"{name} writes in place: {calls}; use probes.atomic_files.replacing"


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("frame.to_csv(path)", 1),
        ("with replacing(path) as draft:\n  frame.to_csv(draft)", 0),
        ("with replacing(path) as draft:\n  frame.to_csv(path)", 1),
        ("with replacing(path) as draft:\n  pass\nfigure.savefig(draft)", 1),
        ("path.write_text(text)", 1),
        ("open(path, 'w')", 1),
        ("path.open('ab')", 1),
        ("path.open(mode='r+b')", 1),
        ("path.open('rb')", 0),
        ("open(path)", 0),
        ("np.save(path, x)", 1),
        ("table.save(path)", 0),
    ],
)
def test_the_code_check_detects_direct_writes(code: str, count: int) -> None:
    assert len(list(in_place(ast.parse(code)))) == count
