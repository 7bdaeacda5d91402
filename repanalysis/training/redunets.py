"""ReduNets from a data specification: samples of each class, the construction, and the rates as a table."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_doc import Doc
from annotated_types import Ge
from torch import Tensor

from probes.errors import DataError, UsageError
from probes.options import OverwriteOption
from probes.provenance import command_line, versions
from repanalysis.inputs.data import Data, load_data
from repanalysis.inputs.devices import device_of
from repanalysis.inputs.models import image_transform
from repanalysis.inputs.options import DeviceOption, LabelsOption, SizeOption, SplitOption
from repanalysis.networks.redunet.config import ReduNetConfig
from repanalysis.networks.redunet.construction import construct
from repanalysis.networks.redunet.network import RATES, SPLITS, ReduNet
from repanalysis.statistics.draws import hashed
from repanalysis.table import Table
from repanalysis.training.epochs import Images

__all__ = ["LabelledSamples", "build_redunet", "rates_table", "read_samples"]

_LARGEST = 4096  # side of images

PerClassOption = Annotated[int | None, Ge(1), Doc("Training samples of each class; default all.")]
TestPerClassOption = Annotated[int | None, Ge(1), Doc("Test samples of each class; default all.")]
TestOption = Annotated[str | None, Doc("Test data, whose rates are recorded too; default --data.")]
TestSplitOption = Annotated[str | None, Doc("Split of the test data.")]
ResumeOption = Annotated[bool, Doc("Continue a construction that was stopped.")]


@dataclass(frozen=True)
class LabelledSamples:
    """Samples in memory.

    Attributes
    ----------
    x : (n, ...) float32 tensor
    y : (n,) integer array
        Classes.
    class_names : list of str or None
        Name of class 0, 1, ...
    preprocessing : dict or None
        Of images; None for other samples.
    """

    x: Tensor
    y: np.ndarray
    class_names: list[str] | None
    preprocessing: dict[str, Any] | None


def read_samples(
    data: str, split: str | None = None, *, per_class: int | None = None, size: SizeOption = None,
    labels: str | None = None, seed: int = 0, preprocessing: dict[str, Any] | None = None, hidden: bool | None = None,
) -> LabelledSamples:  # fmt: skip
    """Labelled samples of a specification, prepared as `extract` prepares them for the constructed network.

    Parameters
    ----------
    data, split, labels : str
        As for `load_data`.
    per_class : int, optional
        Samples of each class, drawn by the seed; by default all.
    size : int or str, optional
        Side of images; by default their own.
    preprocessing : dict, optional
        That of earlier images, for test images.

    Raises
    ------
    DataError
        If samples have no labels, or a class has fewer samples than asked for.
    """
    raw = load_data(data, split=split, labels=labels)
    shape = tuple(raw[0][0].shape)
    if preprocessing is None and len(shape) == 3 and shape[0] in (1, 3):
        side = shape[1:] if size is None else _side(size)
        preprocessing = {
            "input_size": (shape[0], *side), "mean": (0.0,) * shape[0], "std": (1.0,) * shape[0],
            "interpolation": "bilinear", "crop_pct": 1.0,
        }  # fmt: skip
    if preprocessing is not None:
        colours = int(preprocessing["input_size"][0])
        raw = load_data(data, split=split, labels=labels, transform=image_transform(preprocessing), colours=colours)
    elif size is not None:
        raise UsageError(f"The samples of {data} have shape {shape}; --size is that of images.")
    picked = _of_each_class(raw, per_class, seed)
    images = Images.of(picked, hidden=hidden)
    if images.images is None:
        raise UsageError(f"{len(picked):,} samples of {data} need more than 4 GB; give --per-class, or a smaller --size.")
    return LabelledSamples(images.images, images.labels.numpy(), raw.class_names, preprocessing)


def _side(size: object) -> tuple[int, int]:
    """Height and width of square images."""
    if not (str(size).isdecimal() and 0 < int(str(size)) <= _LARGEST):
        raise UsageError(f"{size!r} is not a side of images, from 1 to 4,096; write 28.")
    return int(str(size)), int(str(size))


def _of_each_class(data: Data, per_class: int | None, seed: int) -> Data:
    """So many labelled samples of each class: those whose hash of (id, seed) is smallest."""
    if data.labels is None:
        raise DataError(f"{data.spec} has no labels; the construction needs them. Give --labels FILE.")
    labelled = np.flatnonzero(data.labels >= 0)
    if per_class is not None:
        order = labelled[np.argsort(hashed(data.ids[labelled], seed), kind="stable")]
        groups = [order[data.labels[order] == label][:per_class] for label in np.unique(data.labels[labelled])]
        if (small := min(map(len, groups))) < per_class:
            raise DataError(f"A class of {data.spec} has {small} samples; {per_class} of each were asked for.")
        labelled = np.sort(np.concatenate(groups))
    return data if len(labelled) == len(data) else data.pick(data.ids[labelled])


def build_redunet(
    data: str,
    output: str | PathLike[str] | None = None,
    config: ReduNetConfig | None = None,
    *,
    split: SplitOption = None,
    test: TestOption = None,
    test_split: TestSplitOption = None,
    per_class: PerClassOption = None,
    test_per_class: TestPerClassOption = None,
    size: SizeOption = None,
    labels: LabelsOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    progress: bool | None = None,
) -> ReduNet:
    """Construct a ReduNet from a data specification.

    Parameters
    ----------
    data, split, labels : str
        Training samples; as for `load_data`.
    output : path-like, optional
        Safetensors file; `redunet:FILE` then names the network.
    config : ReduNetConfig, optional
        Parameters of the construction; its seed also draws the samples.
    test, test_split : str, optional
        Test samples; if only one is given, `test` defaults to `data`. By default none.
    per_class, test_per_class : int, optional
        Samples of each class; by default all.
    size : int, optional
        Side of the images; by default their own.
    device : str, optional
        By default the GPU, if there is one.
    resume, overwrite : bool
        Continue a construction that was stopped; replace an existing file.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Returns
    -------
    ReduNet
        See `construct`.

    Raises
    ------
    UsageError, DataError
        As for `construct` and `load_data`.
    """
    config = config or ReduNetConfig()
    hidden = None if progress is None else not progress
    training = read_samples(data, split, per_class=per_class, size=size, labels=labels, seed=config.seed, hidden=hidden)
    testing = None
    if test or test_split:
        testing = read_samples(
            test or data, test_split, per_class=test_per_class, size=size, labels=labels, seed=config.seed,
            preprocessing=training.preprocessing, hidden=hidden,
        )  # fmt: skip
    source = {"data": data, "split": split or "", "per_class": per_class or 0, "class_names": training.class_names}
    source |= {"test": (test or data) if testing else "", "test_split": test_split or "", "versions": versions()}
    return construct(
        training.x, training.y, config, test=None if testing is None else (testing.x, testing.y), output=output, resume=resume,
        overwrite=overwrite, device=device_of(device), preprocessing=training.preprocessing, source=source, progress=progress,
    )  # fmt: skip


def rates_table(network: ReduNet, run: str) -> Table:
    """The rates of the construction as a table: a run for training and one for test samples, `plot` draws them.

    Parameters
    ----------
    network : ReduNet
        A constructed network.
    run : str
        Name of the runs, followed by "train" or "test".
    """
    step, source, count = network.step, network.design.source, len(network.layers)
    provenance = {
        "analysis": "redunet build", "parameters": dict(vars(network.design.config)), "source": dict(source),
        "effective": {"eps_sq": step.eps_sq, "eta_eff": step.eta_eff, "lam_eff": step.lam_eff},
        **({"command": line} if (line := command_line()) else {}),
    }  # fmt: skip
    curve = network.curve()
    rows = [
        {
            "run": f"{run} {row['split']}", "model": f"redunet:{Path(run).name}", "layer": row["layer"], "order": row["order"],
            "depth": row["order"] / count, "metric": metric, "split": row["split"], "value": row[metric],
            "n": step.n if row["split"] == SPLITS[0] else int(source.get("n_test", 0)),
        }
        for row in curve.to_dict("records")
        for metric in RATES
    ]  # fmt: skip
    return Table.from_rows(rows, dict.fromkeys(dict.fromkeys(row["run"] for row in rows), provenance))
