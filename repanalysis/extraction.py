"""From what a user types to activations: model, data and options make a `Run`, and a run becomes a file, a table or a plan.

The command line and the demo call these functions; everything below them takes a model and a loader.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

import probes
from probes import Store, UsageError
from probes.axes import AxesOption
from probes.check import Difference, compare
from probes.layers import head_of
from probes.patterns import Patterns
from probes.plan import Plan
from probes.plan import plan as plan_recording
from probes.pooling import Pools
from probes.shards import shard_name
from repanalysis.engine import analyze
from repanalysis.head_rows import attribute, by_class, matched, relabelled
from repanalysis.inputs.data import Data, load_data
from repanalysis.inputs.head_names import head_names, names_in
from repanalysis.models import Model, Size, load_model
from repanalysis.table import Table

__all__ = ["Run", "plan", "prepare", "stream", "verify", "without_labels", "write"]

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
    batch_size, workers : int
        Samples per forward pass; processes that load them.
    device : str
        Where the network runs.
    options : dict
        What `probes.capture` is told.
    attrs : dict
        Provenance.
    """

    model: Model
    data: Data
    batch_size: int
    workers: int
    device: str
    options: dict[str, Any]
    attrs: dict[str, Any]

    def loader(self) -> Any:
        """Batches `(x, labels, ids)`, in page-locked memory where that speeds up the transfer."""
        return self.data.loader(self.batch_size, workers=self.workers, pinned=self.device.startswith("cuda"))


def prepare(
    model: str,
    data: str,
    *,
    weights: str | PathLike[str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    layers: Patterns = None,
    pool: Pools = "mean",
    ops: bool = False,
    prefix_tokens: int | None = None,
    dtype: str = "auto",
    size: Size | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str | None = None,
    precision: str = "float32",
    channels_last: bool = False,
    seed: int = 0,
    axes: AxesOption = None,
    labels: str | None = None,
    targets: str | None = None,
    ignore_labels: Collection[int] = (),
    head_classes: Path | None = None,
) -> Run:
    """Build the network, open the data, and choose where to run.

    Parameters
    ----------
    model, weights, size, mean, std
        As for `load_model`.
    data, split
        As for `load_data`.
    limit : int, optional
        Random subset of so many samples.
    layers, pool, ops, prefix_tokens, dtype, precision, channels_last, seed, axes
        As for `probes.capture`; the seed is also that of random weights and of the subset.
    batch_size, workers : int
        As for a torch `DataLoader`.
    device : str, optional
        By default the GPU, if there is one; under torchrun each process has its own.
    labels, targets, ignore_labels
        As for `load_data`.
    head_classes : pathlib.Path, optional
        Names of the rows of the network's last layer, one a line, to match them with the classes of the data.

    Returns
    -------
    Run
        What `write`, `stream` and `plan` take.
    """
    torch.manual_seed(seed)
    built = load_model(model, weights=weights, size=size, mean=mean, std=std)
    samples = load_data(data, split=split, labels=labels, targets=targets, ignore_labels=ignore_labels, **taken_by(built))
    attrs = built.card | {"dataset": data, "split": split or "", "limit": limit or 0, "batch_size": batch_size, "seed": seed}
    attrs |= _described(samples, labels=labels is not None or targets is not None)
    attrs |= _head_rows(built, model, samples, weights, head_classes)
    samples = samples if limit is None else samples.sample(limit, seed=seed)
    where = device or best_device()
    built.module.to(where)
    options = {
        "layers": layers, "pool": pool, "ops": ops, "prefix_tokens": prefix_tokens, "dtype": dtype, "seed": seed,
        "split": samples.split, "device": where, "precision": precision, "channels_last": channels_last, "axes": axes,
    }  # fmt: skip
    attrs |= {"command": " ".join(["repanalysis", *sys.argv[1:]])}
    return Run(built, samples, batch_size, workers, where, options, attrs)


def _described(data: Data, *, labels: bool) -> dict[str, Any]:
    """What a file says of its labels and targets, where they are not simply those of the data set."""
    beside = labels or data.labels_from not in ("", "class folders")
    names = {"target_names": list(data.target_names)} if data.target_names else {}
    return names | ({"labels": data.labels_from} if beside and data.labels_from else {})


def _head_rows(model: Model, spec: str, data: Data, weights: Any, file: Path | None) -> dict[str, Any]:
    """Which rows of a pretrained head the classes are; nothing where the classes themselves say it."""
    head = head_of(model.module)
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
    found, how = matched(data.class_names, count, rows, names)
    if found is None and not pretrained and file is None:
        return {}  # weights of one's own may have classes of their own
    return {"head_rows": attribute(found, how)}


def without_labels(run: Run) -> str:
    """A sentence where a run has neither labels nor targets; else empty."""
    if run.data.labels is not None or run.data.targets is not None:
        return ""
    return (
        f"{run.data.spec} has no labels: metrics that compare classes can't be computed from what is recorded; give them with "
        f"--labels FILE, here or at analyze."
    )


def colours(model: Model) -> int:
    """Colours of the images that a network takes."""
    return 3 if model.input_size is None or len(model.input_size) != 3 else int(model.input_size[0])


def taken_by(model: Model) -> dict[str, Any]:
    """How `load_data` makes samples for a network."""
    return {"transform": model.transform, "colours": colours(model), "tokens": model.takes_tokens}


def best_device() -> str:
    """The GPU, if there is one; under torchrun, the process's own."""
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def write(
    run: Run,
    output: Path,
    *,
    compression: str = "none",
    overwrite: bool = False,
    resume: bool = False,
    progress: bool | None = None,
) -> Store | None:
    """Record a run to a file; under torchrun, this process's shard to a folder.

    Parameters
    ----------
    run : Run
        As `prepare` makes it.
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
        shards = run.data.parts(processes, run.batch_size)
        if rank >= len(shards):
            return None
        path = _shard_path(output, rank, len(shards))
        run, attrs = replace(run, data=shards[rank]), attrs | {"shard": rank, "shards": len(shards)}
    if (sentence := without_labels(run)) and rank == 0:
        warnings.warn(sentence, stacklevel=2)
    return probes.record(
        run.model.module, run.loader(), path, attrs=attrs, class_names=run.data.class_names, compression=compression,
        overwrite=overwrite, resume=resume, progress=progress if rank == 0 else False, **run.options,
    )  # fmt: skip


def _shard_path(folder: Path, rank: int, shards: int) -> Path:
    if folder.suffix in (".h5", ".hdf5") or folder.is_file():
        raise UsageError(f"{shards} processes write one shard each: give a folder (-o acts), not the file {folder}.")
    names = {shard_name(shard, shards) for shard in range(shards)}
    if other := sorted(file.name for file in folder.glob("*.h5") if file.name not in names):
        raise UsageError(f"{folder} holds {other[0]}, which is no shard of {shards}; give an empty folder.")
    return folder / shard_name(rank, shards)


def stream(
    run: Run,
    metrics: str | Sequence[str] | None = None,
    *,
    name: str = "run",
    state_budget: int = 2 << 30,
    progress: bool | None = None,
) -> Table:
    """Compute metrics while the network runs, and keep no activations.

    Parameters
    ----------
    run : Run
        As `prepare` makes it.
    metrics, state_budget, progress
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
    batches = probes.capture(run.model.module, run.loader(), class_names=run.data.class_names, **run.options)
    head: tuple[Any, ...] | None = head_of(run.model.module)
    if head is not None and run.data.labels is not None and len(run.data):
        head = by_class((head[0], head[1]), run.attrs, run.data.class_names, run.data.labels[run.data.labels >= 0])
    facts = run.attrs | {key: value for key, value in run.options.items() if key not in ("split", "layers")}
    return analyze(
        batches, metrics, run=name, model=str(run.attrs["model"]), state_budget=state_budget, recorded=facts,
        head=head, progress=progress,
    )  # fmt: skip


def plan(run: Run) -> Plan:
    """What writing a run would weigh; see `probes.plan`."""
    example = run.data[0][0][None].to(run.device)
    keys = ("layers", "pool", "ops", "prefix_tokens", "dtype", "seed", "axes")
    return plan_recording(run.model.module, example, len(run.data), **{key: run.options[key] for key in keys})


def verify(
    model: str,
    path: Path,
    *,
    weights: str | PathLike[str] | None = None,
    data: str | None = None,
    samples: int = 32,
    device: str | None = None,
    workers: int = 0,
    seed: int = 0,
) -> list[Difference]:
    """Run a network again on some of a file's samples, as the file says it was run, and compare.

    Parameters
    ----------
    model, weights
        The network. What the file says of it is never run.
    path : pathlib.Path
        Activations: a file, or a folder of shards.
    data : str, optional
        The data, should they lie elsewhere than the file says.
    samples : int, default 32
        How many, drawn from the seed.
    device, workers
        As for `prepare`.
    seed : int, default 0
        Of the draw.

    Returns
    -------
    list of probes.check.Difference
        One per layer.

    Raises
    ------
    UsageError
        If the weights are not those that the file was made with.
    """
    with probes.open(path, partial=True) as source:
        facts = source.attrs
        torch.manual_seed(int(facts.get("seed", 0)))
        preprocessing = _json(facts.get("preprocessing", "none"))
        built = load_model(model, weights=weights)
        if isinstance(preprocessing, Mapping) and preprocessing != built.card["preprocessing"]:
            images = {"mean": tuple(preprocessing["mean"]), "std": tuple(preprocessing["std"])}
            built = load_model(model, weights=weights, size=tuple(preprocessing["input_size"]), **images)
        if facts.get("weights_sha256") != built.card["weights_sha256"]:
            raise UsageError(
                f"{path} was made with other weights (sha256 {str(facts.get('weights_sha256'))[:12]}..., now "
                f"{built.card['weights_sha256'][:12]}...): give the model that it was made with, {facts.get('model')}."
            )
        split = str(facts.get("split", "")) or None
        opened = load_data(data or str(facts["dataset"]), split=split, **taken_by(built))
        ids = np.random.default_rng(seed).choice(source.ids, min(samples, len(source)), replace=False)
        where = device or best_device()
        patterns, prefix = facts.get("layers", "leaf calls"), facts.get("prefix_tokens", "auto")
        axes = str(facts.get("axes", ""))
        batches = probes.capture(
            built.module.to(where),
            opened.pick(np.sort(ids)).loader(min(samples, int(facts.get("batch_size", 64))), workers=workers),
            layers=None if patterns == "leaf calls" else _json(patterns),
            pool=str(facts.get("pool", "mean")).split("; "),
            ops=bool(facts.get("ops", 0)),
            prefix_tokens=None if prefix == "auto" else int(prefix),
            axes=axes.split("; ") if axes else None,
            dtype=str(facts.get("dtype", "auto")),
            seed=int(facts.get("seed", 0)),
            device=where,
            precision=str(facts.get("precision", "float32")),
            channels_last=bool(facts.get("channels_last", 0)),
        )
        return compare(source, batches)


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
