"""How tests/data/v3_names.h5 was made, once: it is frozen, and stays readable for ever. Do not run it again."""

from pathlib import Path

import numpy as np

from probes import Batch, LayerInfo
from probes.storage.writer import create

INFO = {"conv": LayerInfo("conv", 0, 1.0, ("sample", "channel"), "mean", "Conv2d", 0, (2, 3, 3), "float32")}
NAMES = ["train/cat/1.png", "train/cat/é.png", "train/dog/0001.png", "日本.jpg", "a b/%2F.png", r"\udcff.png"]

if __name__ == "__main__":
    attrs = {"model": "frozen", "weights_sha256": "0" * 64, "dataset": "imagefolder:frozen", "seed": 0, "ids_from": "name"}
    attrs |= {"command": "python tests/data/make_v3_names.py", "versions": {"repanalysis": "0.1.0"}}
    with create(Path(__file__).with_name("v3_names.h5"), attrs=attrs, expected=6, compression="gzip") as writer:
        for rows in (slice(0, 4), slice(4, 6)):
            writer.append(
                Batch(
                    ids=np.array(NAMES[rows]),
                    layers={"conv": np.arange(12, dtype="f4").reshape(6, 2)[rows]},
                    labels=(np.arange(6) % 3)[rows],
                    info=INFO,
                )
            )
