"""Ten thousand corrupted files give the correct data or a clear error; never a crash, a hang or a wrong array."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import probes

RNG = np.random.default_rng(0)
LAYERS = {"a": RNG.normal(size=(50, 8)).astype("f4"), "b.c": RNG.normal(size=(50, 3, 4, 4)).astype("f4")}
LABELS = np.arange(50) % 2


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: a bit, random bytes, zeros, copied bytes, a deleted or inserted range, truncation."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(changed)))
        length = min(int(2 ** rng.uniform(0, 13)), len(changed) - at)
        source = int(rng.integers(len(changed) - length + 1))
        kind = rng.choice(["bit", "random", "zeros", "copied", "cut", "inserted", "ended"])
        if kind == "bit":
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == "ended":
            del changed[max(1, len(changed) - length) :]
        elif kind == "cut":
            del changed[at : at + length - 1]
        elif kind == "inserted":
            changed[at:at] = rng.bytes(length)
        else:
            new = {"random": rng.bytes(length), "zeros": bytes(length), "copied": bytes(changed[source : source + length])}
            changed[at : at + length] = new[str(kind)]
    return bytes(changed)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_corrupted_file_gives_the_correct_data_or_a_clear_error(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "acts.h5"
    with probes.create(path, attrs={"model": "m"}, class_names=["x", "y"], compression=compression, expected=50) as writer:
        writer.append(probes.Batch(np.arange(50), LAYERS, LABELS, np.full(50, "train")))
    content, rng, outcomes = path.read_bytes(), np.random.default_rng(20261121), Counter[str]()
    changed_path = tmp_path / "changed.h5"
    for _ in range(5000):
        changed = mutated(content, rng)
        changed_path.write_bytes(changed)
        start = time.monotonic()
        try:
            with probes.open(changed_path) as store:
                assert list(store.info) == list(LAYERS)
                for name, array in LAYERS.items():
                    np.testing.assert_array_equal(store[name], array)
                np.testing.assert_array_equal(store.ids, np.arange(50))
                np.testing.assert_array_equal(store.labels, LABELS)
                assert store.split is not None
                assert set(store.split) == {"train"}
                assert store.class_names == ["x", "y"]
                assert store.attrs["model"] == "m"
            outcomes["right"] += 1
        except probes.FormatError as error:
            outcomes["refused" if str(error).startswith(str(changed_path)) else "unclear"] += 1
        assert time.monotonic() - start < 10
    assert outcomes["refused"] > 3000, "most changes hit something"
    assert not outcomes["unclear"]
    assert outcomes["right"] > 10, "some hit what nobody reads"
