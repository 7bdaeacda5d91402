"""A killed construction continues with the same bytes; nothing else is taken for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probes.errors import FormatError, UsageError
from repanalysis.networks.redunet.construction import construct
from repanalysis.networks.redunet.layer_files import LayerFile
from repanalysis.networks.redunet.network import ReduNet

RNG = np.random.default_rng(0)
Y = np.arange(3).repeat(5)
X = RNG.normal(size=(3, 2, 6))[Y] + RNG.normal(size=(15, 2, 6))


class Stop(Exception):
    """Stands for a kill."""


def build(path: Path, **options: Any) -> ReduNet:
    return construct(X, Y, layers=5, shift_invariant=True, test=(X[::2], Y[::2]), output=path, **options)


def stopped_at(path: Path, layer: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> bytes:
    """The bytes of FILE.part of a construction that is stopped before it writes a layer."""
    append = LayerFile.append

    def stop(file: LayerFile, arrays: Any) -> None:
        if file.done == layer:
            raise Stop
        append(file, arrays)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(LayerFile, "append", stop)
        build(path, **options)
    return path.with_name(f"{path.name}.part").read_bytes()


@pytest.mark.parametrize("layer", range(5))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_stopped_construction_continues_to_the_same_file(
    layer: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "whole", dtype=dtype)
    path = tmp_path / "net"
    stopped_at(path, layer, monkeypatch, dtype=dtype)
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match="--resume continues it"):
        ReduNet.load(path)
    with pytest.raises(UsageError, match="--resume continues it"):
        build(path, dtype=dtype)
    build(path, dtype=dtype, resume=True)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net", "whole"]


def test_a_cut_at_any_byte_is_continued_from_the_last_whole_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "whole")
    expected = (tmp_path / "whole").read_bytes()
    path = tmp_path / "net"
    content = stopped_at(path, 4, monkeypatch)
    start = len(content) - 4 * (len(expected) - len(content))
    part = tmp_path / "net.part"
    for cut in [start, start + 1, *RNG.integers(start, len(content), 12).tolist(), len(content) - 1]:
        part.write_bytes(content[:cut])
        build(path, resume=True)
        assert path.read_bytes() == expected
        path.unlink()


def test_a_damaged_layer_and_those_after_it_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a power cut, when blocks of a file were not written."""
    build(tmp_path / "whole")
    path, part = tmp_path / "net", tmp_path / "net.part"
    content = bytearray(stopped_at(path, 4, monkeypatch))
    content[-3000:-2000] = bytes(1000)
    part.write_bytes(bytes(content))
    build(path, resume=True)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("cut", [0, 5, 100])
def test_a_part_without_its_header_is_begun_anew_or_refused(cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, part = tmp_path / "net", tmp_path / "net.part"
    part.write_bytes(stopped_at(path, 2, monkeypatch)[:cut])
    if cut:
        with pytest.raises(UsageError, match="--overwrite"):
            build(path, resume=True)
        build(path, overwrite=True)
    else:
        build(path, resume=True)
    ReduNet.load(path)


def test_another_construction_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net"
    content = stopped_at(path, 2, monkeypatch)
    changes: list[dict[str, Any]] = [{"eta": 0.4}, {"dtype": "float32"}, {"channels": 3}, {"seed": 1}]
    for options in changes:
        with pytest.raises(UsageError, match="another construction"):
            build(path, resume=True, **options)
    common: dict[str, Any] = {"shift_invariant": True, "output": path, "resume": True}
    with pytest.raises(UsageError, match="another construction"):
        construct(X + 1e-9, Y, layers=5, test=(X[::2], Y[::2]), **common)
    with pytest.raises(UsageError, match="another construction"):
        construct(X, np.roll(Y, 1), layers=5, test=(X[::2], Y[::2]), **common)
    with pytest.raises(UsageError, match="another construction"):
        construct(X, Y, layers=6, test=(X[::2], Y[::2]), **common)
    assert path.with_name("net.part").read_bytes() == content


def test_a_file_is_replaced_only_if_asked_for_and_only_when_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net"
    build(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        build(path)
    stopped_at(path, 2, monkeypatch, overwrite=True, eta=0.4)
    assert path.read_bytes() == before
    build(path, overwrite=True, eta=0.4)
    assert path.read_bytes() != before


def test_two_processes_do_not_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net"
    append = LayerFile.append

    def second(file: LayerFile, arrays: Any) -> None:
        if file.done == 2:
            with pytest.raises(UsageError, match="another process"):
                build(path, resume=True)
        append(file, arrays)

    monkeypatch.setattr(LayerFile, "append", second)
    build(path)


@pytest.mark.parametrize("position", [0, 8, 40, -1])
def test_a_cut_or_changed_file_is_refused(position: int, tmp_path: Path) -> None:
    path = tmp_path / "net"
    build(path)
    path.write_bytes(path.read_bytes()[:position])
    with pytest.raises(FormatError, match="can't be read"):
        ReduNet.load(path)


@pytest.mark.parametrize("channels", [0, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_operators_are_aligned_in_memory_also_of_files_that_others_wrote(channels: int, dtype: str, tmp_path: Path) -> None:
    """A product of one sample with complex operators that are not aligned ended the process."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "net"
    network = build(path, channels=channels, dtype=dtype)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({"a": torch.zeros(3, dtype=torch.uint8)} | load_file(path), tmp_path / "other", metadata)
    for other in (network, ReduNet.load(tmp_path / "other")):
        assert all(layer.operators.data_ptr() % 64 == 0 for layer in other.layers)  # type: ignore[union-attr,operator]
        for count in (1, 2, 3):
            with torch.no_grad():
                assert torch.isfinite(other(torch.from_numpy(X[:count]))).all()
    start = len(path.read_bytes()) % 64
    assert start == 0


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(FormatError, match="holds no ReduNet"):
        ReduNet.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no ReduNet file"):
        ReduNet.load(tmp_path / "none.safetensors")


def test_a_killed_process_is_continued(tmp_path: Path) -> None:
    code = (
        "import numpy as np; from repanalysis.networks.redunet.construction import construct\n"
        "rng = np.random.default_rng(0); y = np.arange(2).repeat(200); x = rng.normal(size=(400, 60)) + y[:, None]\n"
        "import sys; construct(x, y, layers=400, output=sys.argv[1], resume=True, progress=False)"
    )
    whole, path = tmp_path / "whole", tmp_path / "net"
    subprocess.run([sys.executable, "-c", code, str(whole)], check=True)
    kills = 0
    while not path.exists():
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        part = path.with_name("net.part")
        size = part.stat().st_size if part.exists() else 0
        while process.poll() is None and kills < 3 and not (part.exists() and part.stat().st_size > size + 3_000_000):
            time.sleep(0.01)
        if kills < 3:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert path.read_bytes() == whole.read_bytes()
