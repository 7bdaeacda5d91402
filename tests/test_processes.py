"""Worker processes under each start method: spawn (macOS, Windows), forkserver (Python 3.14) and fork."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import probes
from tests.cli.running import write_acts

MAIN = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv.pop(1))
    from repanalysis.cli import main
    main()
"""


def child(folder: Path, method: str, *words: object) -> subprocess.CompletedProcess[str]:
    (folder / "child.py").write_text(MAIN)
    words = (sys.executable, "child.py", method, *words, "--threads", 1)
    return subprocess.run([str(word) for word in words], cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def extracted(folder: Path, method: str, model: str, data: str, *options: object) -> probes.Store:
    path = folder / f"{method}.h5"
    result = child(folder, method, "extract", model, "--data", data, "-o", path, "--workers", 2, "--batch-size", 3, *options)
    assert result.returncode == 0, result.stderr
    return probes.Store(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (12, 9, 3), np.uint8)).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_images_are_loaded_by_processes_under_every_start_method(pictures: Path, tmp_path: Path, method: str) -> None:
    """Regression: data sets read through local functions, which can not be pickled."""
    words = ("timm:resnet18", f"imagefolder:{pictures}", "--weights", "random", "--size", 16, "-l", "fc")
    store = extracted(tmp_path, method, *words)
    assert store.labels.tolist() == [0] * 4 + [1] * 4
    child(tmp_path, "fork", "extract", words[0], "--data", words[1], "-o", tmp_path / "one.h5", "--batch-size", 3, *words[2:])
    np.testing.assert_array_equal(store["fc"], probes.Store(tmp_path / "one.h5")["fc"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("data", ["digits", "npz", "gaussians:d=64,n=20", "tar", "scale-detection:task=1,pixels=16,scale=5"])
def test_every_kind_of_data_is_loaded_under_every_start_method(pictures: Path, tmp_path: Path, method: str, data: str) -> None:
    import tarfile

    model = "py:repanalysis.networks.digits_cnn:digits_cnn"
    if data == "npz":
        np.savez(tmp_path / "x.npz", x=np.zeros((7, 8, 8), np.uint8), y=np.arange(7) % 2)
        data = f"npz:{tmp_path / 'x.npz'}"
    elif data == "tar":
        with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
            tar.add(pictures, "images")
        model, data = "small:lenet,colours=3,size=32", f"imagefolder:{tmp_path / 'x.tar.gz'}"
    elif data.startswith(("gaussians", "scale")):
        side = 64 if data.startswith("g") else 16
        (tmp_path / "mine.py").write_text(
            f"from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear({side}, 4))\n"
        )
        model = "py:mine:net"
    options = ("--size", 32) if "tar" in data else ()
    store = extracted(tmp_path, method, model, data, "--limit", 6, *options)
    assert len(store) == 6


@pytest.mark.parametrize("method", ["forkserver", pytest.param("fork", marks=pytest.mark.slow)])
def test_layers_are_analysed_by_processes_under_every_start_method(tmp_path: Path, method: str) -> None:
    path = write_acts(tmp_path / "a.h5")
    for name, workers in (("one", 0), ("two", 2)):
        words = ("analyze", path, "-o", f"{name}.csv", "--workers", workers, "-m", "fisher_ratio,nc1", "--groups", 3)
        result = child(tmp_path, method, *words)
        assert result.returncode == 0, result.stderr
    rows = [
        [line.partition(',"{')[0] for line in (tmp_path / f"{name}.csv").read_text().splitlines()] for name in ("one", "two")
    ]
    assert [row.replace("one", "two") for row in rows[0]] == rows[1]


def test_a_data_set_that_can_not_be_pickled_has_a_one_sentence_error(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import multiprocessing, torch, probes\n"
        "from torch.utils.data import DataLoader\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    data = [(torch.zeros(4), 0)] * 6\n"
        "    loader = DataLoader(data, 2, num_workers=1, collate_fn=lambda items: torch.stack([x for x, _ in items]))\n"
        "    try:\n"
        "        list(probes.capture(torch.nn.Linear(4, 2), loader))\n"
        "    except probes.UsageError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run([sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert result.stdout.startswith("The loader can't be sent to its 1 workers ("), result.stderr
    assert "not as lambdas or within functions, or use num_workers=0." in result.stdout
