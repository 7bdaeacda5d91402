"""Write the table of labels in docs/inputs.md: a source of each kind is created and read, and the table says what was read.

    python docs/make_inputs.py

A test compares the page with this script's output. The rest of the page is written by hand.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.io import savemat
from torch import nn

import probes
from probes.errors import ReportedError
from repanalysis.inputs.data import load_data

PAGE = Path(__file__).with_name("inputs.md")
BEGIN, END = "<!-- labels: begin, made by docs/make_inputs.py -->", "<!-- labels: end -->"
NAMES = ["0.png", "1.png", "2.png"]

Kinds = dict[str, dict[str, Callable[[Path], Any]]]


def images(folder: Path, names: list[str]) -> Path:
    """A folder of images."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (value, 0, 0)).save(folder / name)
    return folder


def with_labels_file(root: Path, name: str, text: str, names: list[str] = NAMES) -> Any:
    """A flat folder of images with a file of labels."""
    (images(root / "set", names) / name).write_text(text)
    return load_data(f"imagefolder:{root / 'set'}")


def tar(root: Path, files: dict[str, bytes]) -> Any:
    """An archive of images 0 to 2 and further files."""
    images(root / "set", NAMES)
    with tarfile.open(root / "set.tar", "w") as archive:
        for name in NAMES:
            archive.add(root / "set" / name, name)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return load_data(f"imagefolder:{root / 'set.tar'}")


def imagenet(root: Path, *, devkit: bool) -> Any:
    """Validation images, their list, and the devkit's names."""
    folder = images(root / "val", [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3)])
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n361\n490\n")
    if devkit:
        kind = np.dtype([("ILSVRC2012_ID", "O"), ("WNID", "O")])
        savemat(root / "meta.mat", {"synsets": np.array([(361, "n02443484"), (490, "n01751748")], kind)})
    return load_data(f"imagefolder:{folder}")


def npz(root: Path, **arrays: Any) -> Any:
    """A data set of three samples."""
    np.savez(root / "x.npz", **arrays)
    return load_data(f"npz:{root / 'x.npz'}")


def features(root: Path, **arrays: Any) -> Any:
    """Features of three samples, with a further column."""
    np.savez(root / "f.npz", fc=np.eye(3), **arrays)
    return probes.open(root / "f.npz")


def file(root: Path, name: str, content: str | Any) -> Any:
    """`--labels` of three pictures."""
    folder = images(root / "set", NAMES)
    path = root / name.partition(":")[0]
    if isinstance(content, str):
        path.write_text(content)
    else:
        np.save(path, content)
    return load_data(f"imagefolder:{folder}", labels=str(root / name))


def loader(labels: Any, **options: Any) -> Any:
    """The one batch that a loader gives."""
    return next(probes.capture(nn.Sequential(nn.Linear(2, 2)), [(torch.zeros(3, 2), labels)], **options))


def arrays(labels: Any) -> Any:
    """Features in memory."""
    return probes.from_arrays({"fc": np.eye(3)}, labels=labels)


X = np.eye(3, dtype=np.float32)
WHOLE, PARTS = np.array([2, 0, 1]), np.array([0.9, 0.1, np.nan])
KINDS: Kinds = {
    "Images": {
        "class folders": lambda root: load_data(f"imagefolder:{images(root / 'set', ['cat/a.png', 'dog/b.png', 'dog/c.png'])}"),
        "class folders `0`, `9`, `10`": lambda root: load_data(
            f"imagefolder:{images(root / 'set', ['0/a.png', '9/b.png', '10/c.png'])}"
        ),
        "a flat folder": lambda root: load_data(f"imagefolder:{images(root / 'set', NAMES)}"),
        "`metadata.csv`: file_name,label": lambda root: with_labels_file(
            root, "metadata.csv", "file_name,label\n2.png,cat\n0.png,dog\n1.png,cat\n"
        ),
        "`metadata.jsonl`: label, one image without": lambda root: with_labels_file(
            root, "metadata.jsonl", '{"file_name": "0.png", "label": 1}\n{"file_name": "2.png", "label": 0}\n'
        ),
        "`metadata.csv`: file_name,target of floats": lambda root: with_labels_file(
            root, "metadata.csv", "file_name,target\n0.png,0.5\n1.png,1.25\n2.png,3\n"
        ),
        "`metadata.csv` of other columns": lambda root: with_labels_file(root, "metadata.csv", "file_name,age\n0.png,3\n"),
        "WebDataset: `0.cls` beside `0.png` in a tar": lambda root: tar(root, {"0.cls": b"2", "1.cls": b"0", "2.cls": b"1"}),
        'WebDataset: `0.json` with `"label"`': lambda root: tar(
            root, {"0.json": b'{"label": "cat"}', "1.json": b'{"label": "dog"}', "2.json": b'{"caption": "?"}'}
        ),
        "ImageNet's ground truth beside the folder": lambda root: imagenet(root, devkit=False),
        "the same with the devkit's `meta.mat`": lambda root: imagenet(root, devkit=True),
        "folders and a table that contradict": lambda root: with_labels_file(
            root, "metadata.csv", "file_name,label\na/0.png,1\na/1.png,0\nb/2.png,0\n", ["a/0.png", "a/1.png", "b/2.png"]
        ),
    },
    "`npz:FILE`": {
        "`y` integers": lambda root: npz(root, x=X, y=WHOLE),
        "`Targets` text": lambda root: npz(root, x=X, Targets=["b", "a", "b"]),
        "`train_images`, `train_labels`, no `--split`": lambda root: npz(root, train_images=X, train_labels=WHOLE),
        "`labels` one-hot": lambda root: npz(root, x=X, labels=np.eye(3)[WHOLE]),
        "`y` floats with NaN": lambda root: npz(root, x=X, y=PARTS),
        "`y` floats, all whole": lambda root: npz(root, x=X, y=WHOLE.astype(float)),
        "`y` (n, 2) floats": lambda root: npz(root, x=X, y=np.c_[PARTS, WHOLE]),
        "`y` with -1 or -100": lambda root: npz(root, x=X, y=[1, -1, -100]),
        "`y` of -1 and 1": lambda root: npz(root, x=X, y=[1, -1, 1]),
        "`y` with -7": lambda root: npz(root, x=X, y=[1, -7, 1]),
        "`y` and `labels`": lambda root: npz(root, x=X, y=WHOLE, labels=WHOLE),
    },
    "Features in `.npz`": {
        "`labels`": lambda root: features(root, labels=WHOLE),
        "`y_train`": lambda root: features(root, train_labels=["a", "b", "a"]),
        "`target` floats": lambda root: features(root, target=PARTS),
        "`y` and `label`": lambda root: features(root, y=WHOLE, label=WHOLE),
    },
    "`--labels FILE`": {
        "`.npy`": lambda root: file(root, "l.npy", WHOLE),
        "`.txt`, one a line": lambda root: file(root, "l.txt", "cat\ndog\ncat\n"),
        "`.txt` of another length": lambda root: file(root, "l.txt", "cat\ndog\n"),
        "`.csv`: filename,class": lambda root: file(root, "l.csv", "filename,class\n2.png,a\n1.png,b\n0.png,c\n"),
        "`.csv` of paths without endings": lambda root: file(root, "l.csv", "path,label\n/data/0,1\n/data/1,0\n/data/2,1\n"),
        "`.csv:age`": lambda root: file(root, "l.csv:age", "id,age\n0.png,20.5\n1.png,30\n2.png,\n"),
        "`.csv` of other images": lambda root: file(root, "l.csv", "id,label\na,1\nb,2\n"),
        "`.csv` without a column of labels": lambda root: file(root, "l.csv", "id,age\n0.png,1\n"),
    },
    "Loaders, data sets": {
        "integers, a tensor": lambda _: loader(torch.tensor(WHOLE)),
        "text": lambda _: loader(["b", "a", "b"]),
        "text, `class_names=`": lambda _: loader(["b", "a", "b"], class_names=["a", "b"]),
        "one-hot rows": lambda _: loader(torch.eye(3)),
        "floats": lambda _: loader(torch.tensor(PARTS)),
        "boxes, masks": lambda _: loader(torch.zeros(3, 4, 4)),
    },
    "`from_arrays`": {
        "pandas Series of text": lambda _: arrays(pd.Series(["b", "a", None])),
        "pandas Categorical": lambda _: arrays(pd.Categorical(["low", "high", "low"], ["low", "high"])),
        "object array": lambda _: arrays(np.array([2, None, 1], object)),
        "(n, 1)": lambda _: arrays(WHOLE[:, None]),
        "several columns of 0 and 1": lambda _: arrays([[1, 1], [0, 1], [0, 0]]),
    },
}  # fmt: skip


def outcome(make: Callable[[Path], Any]) -> str:
    """What became of one kind of source, in words."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = make(Path(folder))
        except ReportedError as error:
            return f"refused: {plain(str(error), folder)}"
        said = [plain(str(warning.message), folder) for warning in caught]
    parts = []
    if found.labels is not None:
        names = getattr(found, "class_names", None)
        parts.append("labels " + ", ".join(map(str, found.labels.tolist())) + (f" of {', '.join(names)}" if names else ""))
    if found.targets is not None:
        rows = ["/".join(f"{value:g}" for value in row) for row in found.targets.tolist()]
        parts.append("targets " + ", ".join(rows))
    return "; ".join(parts or ["no labels"]) + "".join(f"; warns: {sentence}" for sentence in said)


def plain(sentence: str, folder: str) -> str:
    """A sentence without the folder that it was made in, as a table can hold it."""
    return sentence.replace(folder, "DIR").replace("|", "/").strip()


def table() -> str:
    """The table of labels."""
    lines = ["| where | labels | become |", "| --- | --- | --- |"]
    for where, kinds in KINDS.items():
        lines += [f"| {where} | {kind} | {outcome(make)} |" for kind, make in kinds.items()]
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE} is written.\n")
