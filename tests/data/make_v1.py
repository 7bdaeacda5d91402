"""How tests/data/v1.h5 was made, once: it is frozen, and stays readable for ever. Do not run it again."""

from pathlib import Path

import numpy as np

from probes import Batch, LayerInfo
from probes.storage.writer import create

INFO = {
    "conv": LayerInfo("conv", 0, 0.5, ("sample", "channel", "height", "width"), "none", "Conv2d", 0, (2, 3, 3), "float32"),
    "block.relu_1": LayerInfo("block.relu_1", 1, 1.0, ("sample", "channel"), "mean", "ReLU", 1, (4, 7, 7), "float64"),
}

if __name__ == "__main__":
    attrs = {"model": "frozen", "weights_sha256": "0" * 64, "preprocessing": {"mean": [0.5]}, "dataset": "none", "seed": 0}
    attrs |= {"command": "python tests/data/make_v1.py", "versions": {"repanalysis": "0.1.0"}}
    conv, relu = np.arange(6 * 2 * 3 * 3, dtype="f4").reshape(6, 2, 3, 3), np.arange(6 * 4).reshape(6, 4) / 8
    with create(Path(__file__).with_name("v1.h5"), attrs=attrs, class_names=["zero", "one", "two"], expected=6) as writer:
        for rows in (slice(0, 3), slice(3, 6)):
            writer.append(
                Batch(
                    ids=np.arange(10, 16)[rows],
                    layers={"conv": conv[rows], "block.relu_1": relu[rows]},
                    labels=(np.arange(6) % 3)[rows],
                    split=np.array(["train"] * 3 + ["test"] * 3)[rows],
                    info=INFO,
                    skipped={"attn": "its output is a tuple, not a tensor"},
                )
            )
