"""From what a user types to activations: model, data and options make a `Run`, and a run becomes a file, a table or a plan.

The command line and the demo call these functions; everything below them takes a model and a loader.
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
    """A model, data, and how the one runs over the other.

    Attributes
    ----------
    model : Model
        The network, where it will run.
    data : Data
        The samples.
    workers : int
        Processes that load samples.
    device : str
        Where the network runs.
    options : CaptureOptions
        What is kept of the network, and how it is run.
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
    """Build the network, open the data, and choose where to run.

    Parameters
    ----------
    model, weights, size, mean, std
        As for `load_model`.
    data
        As for `load_data`.
    limit : int, optional
        Random subset of so many samples.
    workers : int, default 0
        As for a torch `DataLoader`.
    device : str, optional
        By default the GPU, if there is one; under torchrun each process has its own.
    labels, targets, ignore_labels
        As for `load_data`.
    head_classes : pathlib.Path, optional
        Names of the rows of the network's last layer, one a line, to match them with the classes of the data.
    **options
        As for `probes.capture`; the seed is also that of random weights and of the subset.

    Returns
    -------
    Run
        What `write`, `stream` and `plan` take.
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
        **taken_by(built),
    )
    attrs = built.card | {"dataset": data, "limit": limit or 0}
    attrs |= _described(samples, labels=labels is not None or targets is not None)
    attrs |= _head_rows(built, model, samples, weights, head_classes)
    samples = samples if limit is None else samples.sample(limit, seed=capture_options.seed)
    built.module.to(where)
    attrs |= {"command": command_line()}
    return Run(built, samples, workers, where, replace(capture_options, split=samples.split or ""), attrs)


def _described(data: Data, *, labels: bool) -> dict[str, Any]:
    """What a file says of its labels and targets, where they are not simply those of the data set."""
    beside = labels or data.labels_from not in ("", "class folders")
    names = {"target_names": list(data.target_names)} if data.target_names else {}
    return names | ({"labels": data.labels_from} if beside and data.labels_from else {})


def _head_rows(model: Model, spec: str, data: Data, weights: Any, file: Path | None) -> dict[str, Any]:
    """Which rows of a pretrained head the classes are; nothing where the classes themselves say it."""
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
        return {}  # weights of one's own may have classes of their own
    return {"head_rows": attribute(matching_rows, how)}


def without_labels(run: Run) -> str:
    """A sentence where a run has neither labels nor targets; else empty."""
    if run.data.labels is not None or run.data.targets is not None:
        return ""
    return (
        f"{run.data.spec} has no labels: metrics that compare classes can't be computed from what is recorded; give them with "
        f"--labels FILE, here or at analyze."
    )


def taken_by(model: Model) -> dict[str, Any]:
    """How `load_data` makes samples for a network."""
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
        As `build_run` makes it.
    output : pathlib.Path
        A file, or the folder of the shards.
    compression, overwrite, resume, progress
        As for `probes.record`.

    Returns
    -------
    Store or None
        What was written; None where there are more processes than steps and this one has nothing to do.

    Raises
    ------
    UsageError
        If `output` is a file's name under torchrun, or holds shards of another number of processes.
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
    """Compute metrics while the network runs, and keep no activations.

    Parameters
    ----------
    run : Run
        As `build_run` makes it.
    metrics, state_budget, progress, strict
        As for `analyze`.
    name : str
        What the table calls the run.

    Returns
    -------
    Table
        The one that `analyze` gives for the file that `write` would write.

    Raises
    ------
    UsageError
        Under torchrun: the statistics of several processes are not joined here.
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
    """What writing a run would weigh; see `probes.planning`."""
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
    """Run a network again on some of a file's samples, as the file says it was run, and compare.

    Parameters
    ----------
    model, weights
        The network. What the file says of it is never run.
    path : pathlib.Path
        Activations: a file, or a folder of shards.
    data : str, optional
        The data that the file was made from.
    samples : int, default 32
        How many, drawn from the seed.
    device, workers
        As for `build_run`.
    seed : int, default 0
        Of the draw.
    trust_file : bool, default False
        Whether to open the data that the file names, where `data` says nothing: whoever sent the file chose that path.

    Returns
    -------
    list of probes.comparing.Difference
        One per layer.

    Raises
    ------
    UsageError
        If the weights are not those that the file was made with, or nobody says which data to open.
    FormatError
        If the file says in no way that can be read how it was made, or asks for samples of over 256 MiB.
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
        opened = load_data(data or named, split=options.split or None, **taken_by(built))
        ids = np.random.default_rng(seed).choice(source.ids, min(samples, len(source)), replace=False)
        loader = opened.pick(np.sort(ids)).loader(min(samples, options.batch_size or 64), workers=workers)
        return compare(source, probes.capture(built.module.to(where), loader, device=where, **options.keywords()))


_SAMPLE_BYTES = 256 << 20  # that a file may ask for
_POOLED = 1 << 20  # numbers that a pool of a file may make of a layer


@dataclass(frozen=True)
class _Recorded:
    """How a file says that it was made; nothing in it is run, and nothing in it may ask for much."""

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
        if options.layers is not None:  # by name: a regular expression of somebody else's may take years
            options = replace(options, layers=(f"re:{'|'.join(map(re.escape, source.layers))}",))
        return cls(options, preprocessing, images)


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
