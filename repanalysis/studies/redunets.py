"""Experiments with ReduNets: Gaussian classes, sinusoids, rotated and translated digits, iris.

Each constructs a network from training samples and reports

- the rates R, R_c and R - R_c of training and test samples after each layer;
- accuracies of the paper's classifiers on the features after the last layer (assignment of the layer, nearest subspace, 5
  nearest neighbours by cosine, linear SVM) beside logistic regression and SVM on the raw samples;
- for networks of signals and images, and a vector network on the same samples, the share of test samples whose assignment
  changes under random circular shifts.

Differences from the publication: angles and phases have no duplicate end point, which would break exactness; images have 20
kernels, where the publication has 75 for translations (6 GB of operators); fewer layers by default for sinusoids and iris.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import torch
from annotated_doc import Doc
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from probes.errors import UsageError
from repanalysis._checks import one_of
from repanalysis.analyses.cosines import Cosines, class_cosines
from repanalysis.heads.neighbours import nearest_neighbours
from repanalysis.heads.subspaces import fit_subspaces
from repanalysis.networks.redunet.config import ReduNetConfig
from repanalysis.networks.redunet.construction import construct
from repanalysis.networks.redunet.network import ReduNet
from repanalysis.networks.redunet.polar import Polar
from repanalysis.table import Table
from repanalysis.training.redunets import rates_table, read_samples

__all__ = [
    "EXPERIMENTS", "SHIFTS", "Experiment", "Split", "StudyResult", "held_out_cosines", "run_experiment", "shifted_assignments",
]  # fmt: skip

SHIFTS = 5  # random circular shifts of each test sample


class Split(NamedTuple):
    """Training and test samples."""

    x: Tensor
    y: NDArray[np.int64]
    test_x: Tensor
    test_y: NDArray[np.int64]


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes
    ----------
    config : ReduNetConfig
        Parameters of the construction.
    samples : callable
        From the specification of image data and a seed to the samples.
    subspace : int
        Dimensions of the nearest-subspace classifier.
    images : bool
        Whether it takes image data.
    """

    config: ReduNetConfig
    samples: Callable[[str, int], Split]
    subspace: int = 10
    images: bool = False


class StudyResult(NamedTuple):
    """Results of an experiment.

    Attributes
    ----------
    network : ReduNet
    samples : Split
    rates : Table
        Of training and test samples by layer.
    accuracies : pandas.DataFrame
        Columns experiment, features, classifier, train, test: accuracies.
    shifts : pandas.DataFrame
        Columns experiment, network, changed (share of test samples), largest (change of a probability), accuracy; empty without
        shifts.
    """

    network: ReduNet
    samples: Split
    rates: Table
    accuracies: pd.DataFrame
    shifts: pd.DataFrame


def gaussians(centres: NDArray[np.float64], n: int, seed: int) -> tuple[Tensor, NDArray[np.int64]]:
    """N samples of each class, of standard deviation 0.1 around unit vectors."""
    rng = np.random.default_rng(seed)
    y = np.arange(len(centres)).repeat(n)
    return torch.from_numpy(centres[y] + 0.1 * rng.normal(size=(len(y), centres.shape[1]))), y


def sinusoids(n: int, seed: int, length: int = 150, noise: float = 0.1) -> tuple[Tensor, NDArray[np.int64]]:
    """N sines and n of their signs over one period, (2 n, 1, length), with random phase and noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(2).repeat(n)
    angles = 2 * np.pi * (np.arange(length) / length + rng.random((2 * n, 1)))
    waves = np.where(y[:, None] == 0, np.sin(angles), np.sign(np.sin(angles)))
    return torch.from_numpy(waves + noise * rng.normal(size=waves.shape))[:, None], y


def _gaussian_split(dimensions: int) -> Callable[[str, int], Split]:
    def samples(_: str, seed: int) -> Split:
        return Split(*gaussians(np.eye(dimensions), 500, seed), *gaussians(np.eye(dimensions), 500, seed + 1_000_003))

    return samples


def _sinusoid_split(_: str, seed: int) -> Split:
    return Split(*sinusoids(200, seed), *sinusoids(200, seed + 1_000_003))


def _iris_split(_: str, seed: int) -> Split:
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split

    x, y = load_iris(return_X_y=True)
    parts = train_test_split(x, y, test_size=0.3, random_state=42 + seed)
    return Split(torch.from_numpy(parts[0]), parts[2], torch.from_numpy(parts[1]), parts[3])


def _images(data: str, seed: int) -> Split:
    train = read_samples(data, "train", per_class=10, seed=seed, hidden=True)
    test = read_samples(data, "test", per_class=50, seed=seed, preprocessing=train.preprocessing, hidden=True)
    return Split(train.x.double(), train.y, test.x.double(), test.y)


def _polar_images(data: str, seed: int) -> Split:
    split = _images(data, seed)
    polar = Polar(radii=15, angles=200)
    return split._replace(x=polar(split.x), test_x=polar(split.test_x))


EXPERIMENTS = {
    "gaussians-2d": Experiment(ReduNetConfig(layers=2000), _gaussian_split(2), subspace=1),
    "gaussians-3d": Experiment(ReduNetConfig(layers=2000), _gaussian_split(3), subspace=1),
    "iris": Experiment(ReduNetConfig(layers=400, eta=0.1), _iris_split, subspace=1),
    "sinusoids": Experiment(
        ReduNetConfig(layers=200, eta=0.1, shift_invariant=True, channels=7, kernel=3), _sinusoid_split
    ),
    "rotation": Experiment(
        ReduNetConfig(layers=40, shift_invariant=True, channels=20, kernel=5), _polar_images, images=True
    ),
    "translation": Experiment(
        ReduNetConfig(layers=25, shift_invariant=True, channels=20, kernel=5), _images, images=True
    ),
}  # fmt: skip


def run_experiment(
    name: str,
    output: str | PathLike[str] | None = None,
    *,
    data: Annotated[str, Doc("Images of the experiments with rotation and translation: digits, or npz:mnist.npz.")] = "digits",
    layers: Annotated[int | None, Ge(1), Doc("Layers, in place of each experiment's own.")] = None,
    overwrite: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> StudyResult:
    """Run one experiment.

    Parameters
    ----------
    name : str
        A key of `EXPERIMENTS`.
    output : path-like, optional
        File for the network.
    data : str, default "digits"
        Specification of images with splits train and test.
    layers : int, optional
        Number of layers, in place of the experiment's own.
    overwrite : bool, default False
        Replace an existing file.
    seed : int, default 0
        Seed of samples, kernels and shifts.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Raises
    ------
    UsageError
        If the experiment is unknown.
    """
    one_of("experiment", name, EXPERIMENTS)
    experiment = EXPERIMENTS[name]
    config = replace(experiment.config, seed=seed, layers=layers or experiment.config.layers)
    samples = experiment.samples(data, seed)
    source = {"experiment": name, "data": data if experiment.images else name}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # the rates are reported
        network = construct(
            samples.x, samples.y, config, test=(samples.test_x, samples.test_y), output=output, overwrite=overwrite,
            source=source, progress=progress,
        )  # fmt: skip
    shifts = []
    if config.shift_invariant:
        vector = ReduNetConfig(layers=min(config.layers, 20), eta_eff=1.0)
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            plain = construct(samples.x, samples.y, vector, progress=False)
        for kind, net in (("shift-invariant", network), ("vectors", plain)):
            changed, largest = shifted_assignments(net, samples.test_x, seed=seed)
            accuracy = float((net.predict(samples.test_x) == samples.test_y).mean())
            row = {"experiment": name, "network": kind, "changed": changed, "largest": largest, "accuracy": accuracy}
            shifts.append(row)
    accuracies = _accuracies(network, samples, experiment.subspace).assign(experiment=name)
    columns = ["experiment", "features", "classifier", "train", "test"]
    return StudyResult(network, samples, rates_table(network, name), accuracies[columns], pd.DataFrame(shifts))


@torch.no_grad()
def shifted_assignments(network: ReduNet, x: Tensor, *, seed: int = 0, shifts: int = SHIFTS) -> tuple[float, float]:
    """Share of samples whose assigned class changes under random circular shifts, and the largest change of a probability.

    Parameters
    ----------
    network : ReduNet
        A network.
    x : (n, C, *size) tensor
        Samples.
    seed : int, default 0
        Seed of the shifts.
    shifts : int, default 5
        Shifts of each sample.
    """
    if x.ndim < 3:
        raise UsageError(f"Samples of shape {tuple(x.shape[1:])} have no shifts.")
    rng = np.random.default_rng(seed)
    axes = tuple(range(1, x.ndim - 1))
    clean = network(x).softmax(dim=1)
    changed, largest = torch.zeros(len(x), dtype=torch.bool), 0.0
    for _ in range(shifts):
        moves = np.stack([rng.integers(0, side, len(x)) for side in x.shape[2:]], axis=1)
        moved = torch.stack([row.roll(tuple(move), dims=axes) for row, move in zip(x, moves.tolist(), strict=True)])
        shares = network(moved).softmax(dim=1)
        changed |= shares.argmax(dim=1) != clean.argmax(dim=1)
        largest = max(largest, float((shares - clean).abs().max()))
    return float(changed.double().mean()), largest


def _accuracies(network: ReduNet, samples: Split, dimensions: int) -> pd.DataFrame:
    """Accuracies on features and on raw samples."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC, LinearSVC

    y, test_y = samples.y, samples.test_y
    rows = [{"features": "network", "classifier": "assignment", "train": _share(network.predict(samples.x), y),
             "test": _share(network.predict(samples.test_x), test_y)}]  # fmt: skip
    with torch.no_grad():
        train, test = (network.forward_features(x).flatten(1).double().numpy() for x in (samples.x, samples.test_x))
    subspaces = fit_subspaces(train, y, dimensions)
    neighbours = nearest_neighbours(train, y), nearest_neighbours(train, y, test)
    svm = LinearSVC(random_state=10).fit(train, y)
    pairs = {"nearest subspace": (subspaces.predict(train), subspaces.predict(test)), "5 neighbours": neighbours,
             "linear SVM": (svm.predict(train), svm.predict(test))}  # fmt: skip
    for name, (on_train, on_test) in pairs.items():
        rows.append({"features": "network", "classifier": name, "train": _share(on_train, y), "test": _share(on_test, test_y)})
    raw, raw_test = (x.flatten(1).double().numpy() for x in (samples.x, samples.test_x))
    for name, model in (("logistic regression", LogisticRegression(max_iter=2000)), ("SVM", SVC())):
        fitted = make_pipeline(StandardScaler(), model).fit(raw, y)
        rows.append(
            {"features": "raw", "classifier": name, "train": fitted.score(raw, y), "test": fitted.score(raw_test, test_y)}
        )
    return pd.DataFrame(rows)


def _share(predicted: NDArray[np.generic], y: NDArray[np.int64]) -> float:
    return float(np.mean(predicted == y))


@torch.no_grad()
def held_out_cosines(result: StudyResult, *, most: int = 500) -> Cosines:
    """|cos| of the test samples after the last layer; of at most `most` samples, equally spaced."""
    samples = result.samples
    rows = np.unique(np.linspace(0, len(samples.test_y) - 1, min(most, len(samples.test_y))).astype(int))
    features = result.network.forward_features(samples.test_x[torch.from_numpy(rows)])
    return class_cosines(features.flatten(1).double().numpy(), samples.test_y[rows])
