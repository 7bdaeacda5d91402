"""The demo: one small network before and after training, layer by layer, on real handwriting, in seconds.

Trains `digits_cnn` on one half of scikit-learn's digits, records it untrained and trained on the other half, analyzes
both, and leaves two activations files, the weights, the results and a figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

import probes
from probes.atomic_files import replacing
from probes.errors import UsageError
from probes.options import OverwriteOption
from probes.provenance import command_line
from repanalysis._checks import writable
from repanalysis.analyses.geometry.engine import analyze
from repanalysis.inputs.data import Data, load_data
from repanalysis.inputs.models import load_model
from repanalysis.inputs.weights import save_weights
from repanalysis.networks.crops import random_crops
from repanalysis.plots import overview
from repanalysis.table import Table

__all__ = ["Demo", "accuracy", "run_demo", "train"]

SPEC = "py:repanalysis.networks.digits_cnn:digits_cnn"
FILES = ("untrained.h5", "trained.h5", "trained.safetensors", "results.csv", "depth.svg", "depth.png")
PANELS = (
    "fisher_ratio",
    "rate_reduction",
    "within_class_variance",
    "class_mean_separation",
    "coding_rate",
    "coding_rate_classes",
)


class Demo(NamedTuple):
    """What a demo gave.

    Attributes
    ----------
    table : Table
        Both runs.
    accuracy : float
        Of the trained network on the held-out half, in [0, 1].
    files : list of pathlib.Path
        What was written.
    """

    table: Table
    accuracy: float
    files: list[Path]


def run_demo(folder: Path, *, seed: int = 0, overwrite: OverwriteOption = False, progress: bool | None = None) -> Demo:
    """Train, record, analyze and plot.

    Parameters
    ----------
    folder : pathlib.Path
        Where the files go; made if it is not there.
    seed : int, default 0
        Of the initial weights and the training.
    overwrite : bool, default False
        Replace an earlier demo's files.
    progress : bool, optional
        Show progress bars; by default only on a terminal.

    Returns
    -------
    Demo
        The table, the accuracy and the files.

    Raises
    ------
    UsageError
        If one of the files exists and `overwrite` is false.
    """
    files = [folder / name for name in FILES]
    if (there := [str(file) for file in files if file.exists()]) and not overwrite:
        raise UsageError(f"{there[0]} exists already; nothing was written. Give -o FOLDER, or --overwrite to replace it.")
    writable(folder, folder=True)
    untrained, trained, weights, results, *figures = files
    torch.manual_seed(seed)
    train_half, test_half = load_data("digits", split="train"), load_data("digits", split="test")
    model = load_model(SPEC)
    for path in (untrained, trained):
        attrs = {
            **(model.card if path is untrained else load_model(SPEC, weights=weights).card),
            "model": f"{SPEC} ({path.stem})",
            "dataset": "digits, split test",
            "seed": seed,
            "command": command_line(),
        }
        probes.record(
            model.module,
            test_half.loader(256),
            path,
            split="test",
            attrs=attrs,
            class_names=test_half.class_names,
            overwrite=overwrite,
            progress=progress,
        )
        if path is untrained:
            train(model.module, train_half, seed=seed, progress=progress)
            save_weights(weights, model.module.state_dict())
    table = Table.concat([analyze(path, progress=progress) for path in (untrained, trained)])
    table.to_csv(results)
    figure = overview(table, metrics=PANELS)
    for path in figures:
        with replacing(path) as draft:
            figure.savefig(draft, dpi=150)
    plt.close(figure)
    return Demo(table, accuracy(model.module, test_half), files)


def train(model: nn.Module, data: Data, *, epochs: int = 20, seed: int = 0, progress: bool | None = None) -> None:
    """Train in place: cross-entropy, Adam, learning rate 3e-3 falling to 0 as a cosine, random shifts by one pixel.

    Parameters
    ----------
    model : torch.nn.Module
        From images to class scores.
    data : Data
        Training images with labels.
    epochs : int, default 20
        Passes over the data.
    seed : int, default 0
        For the order of the samples and the shifts.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    """
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, 64, shuffle=True, generator=generator, drop_last=True)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    for _ in tqdm(range(epochs), desc="train", unit=" epochs", disable=None if progress is None else not progress):
        for images, labels, _ids in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(random_crops(images, 1, generator)), labels)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    model.eval()


def accuracy(model: nn.Module, data: Data) -> float:
    """Share of the samples whose highest score is their own class, in [0, 1]."""
    hits = 0
    with torch.no_grad():
        for images, labels, _ids in data.loader(256):
            hits += int((model(images).argmax(1) == labels).sum())
    return hits / len(data)
