"""The demo: a small network before and after training, layer by layer, on handwritten digits, in seconds.

Trains `digits_cnn` on one half of scikit-learn's digits, records it untrained and trained on the other half, analyzes
both, and writes two activations files, the weights, the results and a figure.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch

import probes
from probes.atomic_files import replacing
from probes.errors import UsageError
from probes.options import OverwriteOption
from probes.provenance import command_line
from repanalysis._checks import writable
from repanalysis.analyses.geometry.engine import analyze
from repanalysis.inputs.data import load_data
from repanalysis.inputs.models import load_model
from repanalysis.inputs.weights import save_weights
from repanalysis.plots import overview
from repanalysis.table import Table
from repanalysis.training.epochs import Images, TrainConfig, accuracy, fit

__all__ = ["TRAINING", "Demo", "run_demo"]

TRAINING = TrainConfig(20, 64, 3e-3, "cosine", augment="crops", weight_decay=0.0, optimizer="adamw")
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
    """Results of the demo.

    Attributes
    ----------
    table : Table
        Metrics of both runs.
    accuracy : float
        Of the trained network on the held-out half, in [0, 1].
    files : list of pathlib.Path
        The files that were written.
    """

    table: Table
    accuracy: float
    files: list[Path]


def run_demo(folder: Path, *, seed: int = 0, overwrite: OverwriteOption = False, progress: bool | None = None) -> Demo:
    """Train, record, analyze and plot.

    Parameters
    ----------
    folder : pathlib.Path
        Output folder; created if missing.
    seed : int, default 0
        Seed of the initial weights and the training.
    overwrite : bool, default False
        Replace the files of an earlier demo.
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
    if (existing := [str(file) for file in files if file.exists()]) and not overwrite:
        raise UsageError(
            f"{existing[0]} exists already; nothing was written. Choose another folder with -o, or add --overwrite."
        )
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
            fit(model.module, train_half, replace(TRAINING, seed=seed), progress=progress)
            save_weights(weights, model.module.state_dict())
    table = Table.concat([analyze(path, progress=progress) for path in (untrained, trained)])
    table.to_csv(results)
    figure = overview(table, metrics=PANELS)
    for path in figures:
        with replacing(path) as draft:
            figure.savefig(draft, dpi=150)
    plt.close(figure)
    return Demo(table, accuracy(model.module, Images.of(test_half, hidden=True), 256, "cpu"), files)
