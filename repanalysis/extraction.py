"""From specifications to activations: model, data and options form a `Run`; a run is written to a file, computed to a table, or
planned.

The command line and the demo call these functions; the functions that they call take a model and a loader.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Unpack

import numpy as np
import torch
from annotated_doc import Doc
from annotated_types import Ge

import probes
from probes import FormatError, Store, UsageError
from probes.capturing.keywords import options_of
from probes.capturing.network import final_linear
from probes.comparing import LayerDifference, compare
from probes.options import CaptureKeywords, CaptureOptions, CompressionOption, OverwriteOption, ResumeOption
from probes.planning import Plan
from probes.planning import plan as plan_recording
from probes.provenance import command_line
from probes.storage.shards import shard_name
from repanalysis.analyses.declaration import MetricsOption, StateBudgetOption, StrictOption
from repanalysis.analyses.geometry.engine import analyze
from repanalysis.heads.matching import attribute, by_class, matched, relabelled
from repanalysis.inputs.data import Data, load_data
from repanalysis.inputs.devices import device_of
from repanalysis.inputs.head_names import head_names, names_in
from repanalysis.inputs.models import Model, input_channels, load_model
from repanalysis.inputs.options import (
    ColoursOption,
    DeviceOption,
    IgnoreLabelsOption,
    LabelsOption,
    LimitOption,
    SizeOption,
    TargetsOption,
    WeightsOption,
    WorkersOption,
)
from repanalysis.table import Table

__all__ = ["Run", "build_run", "plan", "stream", "verify", "without_labels", "write"]

_COLLECTIONS = ("timm", "torchvision", "hf")


@dataclass(frozen=True)
class Run:
    """A model, data, and options of the forward passes.

    Attributes
    ----------
    model : Model
        The network, on its device.
    data : Data
        Data set of the samples.
    workers : int
        Number of processes that load samples.
    device : str
        Device of the network.
    options : CaptureOptions
        What is recorded, and how the network is run.
    attrs : dict
        Provenance.
    """

    model: Model
    data: Data
    workers: int
    device: str
    options: CaptureOptions
    attrs: dict[str, Any]

    def loader(self) -> Any:
        """Batches `(x, labels, ids)`, in page-locked memory where that speeds up the transfer."""
        return self.data.loader(self.options.batch_size, workers=self.workers, pinned=self.device.startswith("cuda"))


def build_run(
    model: str,
    data: str,
    *,
    weights: WeightsOption = None,
    limit: LimitOption = None,
    size: SizeOption = None,
    mean: ColoursOption = None,
    std: ColoursOption = None,
    workers: WorkersOption = 0,
    device: DeviceOption = None,
    labels: LabelsOption = None,
    targets: TargetsOption = None,
    ignore_labels: IgnoreLabelsOption = (),
    head_classes: Annotated[
        Path | None, Doc("Names of the rows of the model's last layer, one a line, to match classes by.")
    ] = None,
    **options: Unpack[CaptureKeywords],
) -> Run:
    """Build the network, open the data, and select the device.

    Parameters
    ----------
    model, weights, size, mean, std
        As for `load_model`.
    data
        As for `load_data`.
    limit : int, optional
        Size of a random subset.
    workers : int, default 0
        As for a torch `DataLoader`.
    device : str, optional
        By default the GPU, if there is one; under torchrun that of the process.
    labels, targets, ignore_labels
        As for `load_data`.
    head_classes : pathlib.Path, optional
        File with the names of the rows of the network's last layer, one per line, to match them with the classes of the data.
    **options
        As for `probes.capture`; the seed is also that of random weights and of the subset.

    Returns
    -------
    Run
        Argument of `write`, `stream` and `plan`.
    """
    where, capture_options = device_of(device), options_of(**options)
    torch.manual_seed(capture_options.seed)
    built = load_model(model, weights=weights, size=size, mean=mean, std=std)
    samples = load_data(
        data,
        split=capture_options.split or None,
        labels=labels,
        targets=targets,
        ignore_labels=ignore_labels,
        **data_options(built),
    )
    attrs = built.card | {"dataset": data, "limit": limit or 0}
    attrs |= _described(samples, labels=labels is not None or targets is not None)
    attrs |= _head_rows(built, model, samples, weights, head_classes)
    samples = samples if limit is None else samples.sample(limit, seed=capture_options.seed)
    built.module.to(where)
    attrs |= {"command": command_line()}
    return Run(built, samples, workers, where, replace(capture_options, split=samples.split or ""), attrs)


def _described(data: Data, *, labels: bool) -> dict[str, Any]:
    """The attribute on labels and targets, if they are not those of the data set."""
    beside = labels or data.labels_from not in ("", "class folders")
    names = {"target_names": list(data.target_names)} if data.target_names else {}
    return names | ({"labels": data.labels_from} if beside and data.labels_from else {})


def _head_rows(model: Model, spec: str, data: Data, weights: Any, file: Path | None) -> dict[str, Any]:
    """The rows of a pretrained head that correspond to the classes; empty if row c is class c."""
    head = final_linear(model.module)
    if head is None or str(weights) == "random":
        return {}
    rows = len(head[0])
    names = head_names(spec, model.module, rows) if file is None else names_in(file)
    if file is not None and len(names) != rows:
        raise UsageError(f"{file} names {len(names)} rows, and the head of {spec} has {rows}.")
    pretrained = weights is None and spec.partition(":")[0] in _COLLECTIONS
    if not (names or pretrained):
        return {}
    if data.labels is None:
        return relabelled({"head_rows": ""})
    count = int(data.labels.max(initial=-1)) + 1 if data.class_names is None else len(data.class_names)
    matching_rows, how = matched(data.class_names, count, rows, names)
    if matching_rows is None and not pretrained and file is None:
        return {}  # a user's weights may have other classes
    return {"head_rows": attribute(matching_rows, how)}


def without_labels(run: Run) -> str:
    """A sentence if a run has neither labels nor targets; else empty."""
    if run.data.labels is not None or run.data.targets is not None:
        return ""
    return (
        f"{run.data.spec} has no labels: metrics that compare classes can't be computed from what is recorded; give them with "
        f"--labels FILE, here or at analyze."
    )


def data_options(model: Model) -> dict[str, Any]:
    """Options of `load_data` for a network."""
    return {"transform": model.transform, "colours": input_channels(model), "tokens": model.takes_tokens}


def write(
    run: Run,
    output: Path,
    *,
    compression: CompressionOption = "none",
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    progress: bool | None = None,
) -> Store | None:
    """Record a run to a file; under torchrun, this process's shard to a folder.

    Parameters
    ----------
    run : Run
        As `build_run` returns it.
    output : pathlib.Path
        A file, or the folder of the shards.
    compression, overwrite, resume, progress
        As for `probes.record`.

    Returns
    -------
    Store or None
        The written file; None if there are more processes than steps and this one has none.

    Raises
    ------
    UsageError
        If `output` is the name of a file under torchrun, or a folder with shards of another number of processes.
    """
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    path, attrs = output, run.attrs
    if processes > 1:
        shards = run.data.parts(processes, run.options.batch_size)
        if rank >= len(shards):
            return None
        path = _shard_path(output, rank, len(shards))
        run, attrs = replace(run, data=shards[rank]), attrs | {"shard": rank, "shards": len(shards)}
    if (sentence := without_labels(run)) and rank == 0:
        warnings.warn(sentence, stacklevel=2)
    return probes.record(
        run.model.module, run.loader(), path, attrs=attrs, class_names=run.data.class_names, compression=compression,
        overwrite=overwrite, resume=resume, progress=progress if rank == 0 else False, device=run.device,
        **run.options.keywords(),
    )  # fmt: skip


def _shard_path(folder: Path, rank: int, shards: int) -> Path:
    if folder.suffix in (".h5", ".hdf5") or folder.is_file():
        raise UsageError(f"{shards} processes write one shard each: give a folder (-o acts), not the file {folder}.")
    names = {shard_name(shard, shards) for shard in range(shards)}
    if other := sorted(file.name for file in folder.glob("*.h5") if file.name not in names):
        raise UsageError(f"{folder} holds {other[0]}, which is not a shard of {shards}; give an empty folder.")
    return folder / shard_name(rank, shards)


def stream(
    run: Run,
    metrics: MetricsOption = None,
    *,
    name: str = "run",
    state_budget: StateBudgetOption = 2 << 30,
    progress: bool | None = None,
    strict: StrictOption = False,
) -> Table:
    """Compute metrics while the network runs, without storing activations.

    Parameters
    ----------
    run : Run
        As `build_run` returns it.
    metrics, state_budget, progress, strict
        As for `analyze`.
    name : str
        Name of the run in the table.

    Returns
    -------
    Table
        Equal to the table of `analyze` for the file of `write`.

    Raises
    ------
    UsageError
        Under torchrun, since the statistics of several processes are not merged here.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("Metrics are computed by one process; extract to a folder of shards (-o acts) and analyze that.")
    batches = probes.capture(
        run.model.module, run.loader(), class_names=run.data.class_names, device=run.device, **run.options.keywords()
    )
    head: tuple[Any, ...] | None = final_linear(run.model.module)
    if head is not None and run.data.labels is not None and len(run.data):
        head = by_class((head[0], head[1]), run.attrs, run.data.class_names, run.data.labels[run.data.labels >= 0])
    facts = run.attrs | run.options.to_attrs() | {"device": run.device}
    return analyze(
        batches, metrics, run=name, model=str(run.attrs["model"]), state_budget=state_budget, recorded=facts,
        head=head, progress=progress, strict=strict,
    )  # fmt: skip


def plan(run: Run) -> Plan:
    """Size of the file of a run; see `probes.planning`."""
    example = run.data[0][0][None].to(run.device)
    return plan_recording(run.model.module, example, len(run.data), **run.options.keywords())


def verify(
    model: str,
    path: Path,
    *,
    weights: WeightsOption = None,
    data: Annotated[str | None, Doc("The data that the file was made from.")] = None,
    samples: Annotated[int, Ge(1), Doc("How many samples to run again.")] = 32,
    device: DeviceOption = None,
    workers: WorkersOption = 0,
    seed: int = 0,
    trust_file: Annotated[bool, Doc("Without --data, open what the file names.")] = False,
) -> list[LayerDifference]:
    """Run a network again on samples of a file, with the file's options, and compare the outputs.

    Parameters
    ----------
    model, weights
        The network. The specification in the file is not used, since it could run code.
    path : pathlib.Path
        Activations: a file, or a folder of shards.
    data : str, optional
        Data set of the file.
    samples : int, default 32
        Number of samples, drawn at random.
    device, workers
        As for `build_run`.
    seed : int, default 0
        Seed of the draw.
    trust_file : bool, default False
        Whether to open the data set that the file names, if `data` is None. The sender of the file chose that path.

    Returns
    -------
    list of probes.comparing.Difference
        One per layer.

    Raises
    ------
    UsageError
        If the weights differ from those of the file, or no data set is given.
    FormatError
        If the file's options can't be read, or its samples are larger than 256 MiB.
    """
    where = device_of(device)
    with probes.open(path, partial=True) as source:
        named = str(source.attrs.get("dataset", ""))
        if "weights_sha256" not in source.attrs:
            raise UsageError(f"{path} does not say which network it was made with, so that nothing can be verified.")
        if data is None and not trust_file:
            raise UsageError(
                f"{path} names {named!r} as its data, which are not opened unasked: give --data (data=), or --trust-file "
                f"(trust_file=True) if you trust whoever made the file."
            )
        how = _Recorded.of(source, path)
        options = how.options
        if options.forward:
            raise UsageError(
                f"{path} was recorded with forward={options.forward}, and not by the model alone: no verb can run it."
            )
        torch.manual_seed(options.seed)
        built = load_model(model, weights=weights)
        if how.images and how.preprocessing != built.card["preprocessing"]:
            built = load_model(model, weights=weights, **how.images)
        if source.attrs.get("weights_sha256") != built.card["weights_sha256"]:
            raise UsageError(
                f"{path} was made with other weights (sha256 {str(source.attrs.get('weights_sha256'))[:12]}..., now "
                f"{built.card['weights_sha256'][:12]}...): give the model that it was made with, {source.attrs.get('model')}."
            )
        opened = load_data(data or named, split=options.split or None, **data_options(built))
        ids = np.random.default_rng(seed).choice(source.ids, min(samples, len(source)), replace=False)
        loader = opened.pick(np.sort(ids)).loader(min(samples, options.batch_size or 64), workers=workers)
        return compare(source, probes.capture(built.module.to(where), loader, device=where, **options.keywords()))


_SAMPLE_BYTES = 256 << 20  # limit on a sample's size in a file
_POOLED = 1 << 20  # limit on the numbers of a pooled layer in a file


@dataclass(frozen=True)
class _Recorded:
    """The options of a recording, from a file: data only, with limits on sizes."""

    options: CaptureOptions
    preprocessing: Any
    images: dict[str, Any]

    @classmethod
    def of(cls, source: probes.Source, path: Path) -> _Recorded:
        try:
            options = CaptureOptions.from_attrs(source.attrs)
            preprocessing = _json(source.attrs.get("preprocessing", "none"))
            images: dict[str, Any] = {}
            if isinstance(preprocessing, Mapping):
                images = {key: tuple(map(float, preprocessing[key])) for key in ("mean", "std")}
                images["size"] = tuple(map(int, preprocessing["input_size"]))
                if not all(side > 0 for side in images["size"]) or 4 * math.prod(images["size"]) > _SAMPLE_BYTES:
                    raise ValueError(f"samples of shape {images['size']}")
            pools = "; ".join(options.pool)
            if any(len(number) > 7 or int(number) > _POOLED for number in re.findall(r"\d+", pools)):
                raise ValueError(f"pool {pools}")
            if not 0 <= options.seed < 2**64 or options.batch_size < 0:
                raise ValueError(f"seed {options.seed}, batch size {options.batch_size}")
        except (FormatError, KeyError, TypeError, ValueError, OverflowError) as error:
            reason = str(error).rstrip(".") or "a fact"
            raise FormatError(f"{path} says in no way that can be used how it was made: {reason}.") from error
        if options.layers is not None:  # names, since a regular expression of an untrusted file may run forever
            options = replace(options, layers=(f"re:{'|'.join(map(re.escape, source.layers))}",))
        return cls(options, preprocessing, images)


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
