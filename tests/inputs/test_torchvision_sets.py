"""Data sets of torchvision: read from the disk, or an error says how to download them."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from probes.errors import DataError, UsageError
from repanalysis.inputs.data import load_data

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28)).astype(np.uint8)
Y = np.array([3, 1, 4, 1, 5, 9], np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train", "t10k"):
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, 6, 28, 28) + IMAGES.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 6) + Y.tobytes())
    return tmp_path


def test_images_and_classes_agree_with_the_files(root: Path) -> None:
    data = load_data(f"torchvision:FashionMNIST,root={root}", split="test", colours=1)
    assert data.labels is not None
    assert data.labels.tolist() == Y.tolist()
    assert data.class_names is not None
    assert data.class_names[3] == "Dress"
    copy = pickle.loads(pickle.dumps(data))  # as worker processes receive it
    np.testing.assert_allclose(copy[2][0].numpy()[0], IMAGES[2] / np.float32(255), rtol=1e-6)
    assert load_data(f"torchvision:FashionMNIST,root={root}", split="train")[0][0].shape == (3, 28, 28)


def test_a_missing_data_set_says_how_to_download_it(root: Path) -> None:
    with pytest.raises(DataError, match=r"CIFAR10 is not in .*download it once: python -c"):
        load_data(f"torchvision:CIFAR10,root={root}", split="test")
    with pytest.raises(UsageError, match=r"Unknown data set 'CIFAR' of torchvision. Did you mean 'CIFAR10+'\?"):
        load_data("torchvision:CIFAR", split="test")
    with pytest.raises(UsageError, match="has several splits: choose one with --split .train or test"):
        load_data(f"torchvision:FashionMNIST,root={root}")
    with pytest.raises(UsageError, match="has no split 'val'; it has train and test"):
        load_data(f"torchvision:FashionMNIST,root={root}", split="val")
    with pytest.raises(UsageError, match="has no split 'val'"):
        load_data(f"torchvision:SVHN,root={root}", split="val")
    with pytest.raises(UsageError, match="write torchvision:FashionMNIST,root=DIR"):
        load_data("torchvision:FashionMNIST,folder=x", split="test")


def test_the_batch_files_of_cifar_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072)).astype(np.uint8)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [3, 0, 2, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile", "bird", "cat"]}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)  # torchvision compares checksums before it unpickles
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    data = load_data(f"torchvision:CIFAR10,root={tmp_path}", split="test")
    assert data.labels is not None
    assert (data.labels.tolist(), data.class_names) == ([3, 0, 2, 1], ["airplane", "automobile", "bird", "cat"])
    np.testing.assert_allclose(data[1][0].numpy(), pixels[1].reshape(3, 32, 32) / np.float32(255), rtol=1e-6)
    with pytest.raises(DataError, match="extract --data torchvision:CIFAR10,root="):
        load_data(f"imagefolder:{folder}")
