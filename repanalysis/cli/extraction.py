"""`repanalysis layers`, `plan` and `extract`: from a network and data to activations."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probes.errors import UsageError
from probes.ids import IDS_FROM
from repanalysis._checks import writable
from repanalysis.cli._choices import (
    Axes,
    Budget,
    Colours,
    Compression,
    DataSpec,
    Device,
    Dtype,
    IgnoreLabel,
    Labels,
    Layers,
    Limit,
    Metrics,
    ModelSpec,
    Ops,
    Overwrite,
    Pool,
    PrefixTokens,
    Size,
    Split,
    Strict,
    Targets,
    Weights,
    Workers,
    numbers,
)
from repanalysis.cli._outputs import TABLES, free, tabled, written
from repanalysis.cli._texts import columns, without
from repanalysis.cli._verbs import Said, Settings, verb

if TYPE_CHECKING:
    pass


@verb
def layers(
    settings: Settings,
    model: ModelSpec,
    weights: Weights = "random",
    data: Annotated[str | None, typer.Option(help="Take the first sample from here, not zeros.")] = None,
    split: Split = None,
    layers: Layers = None,
    size: Size = None,
    ops: Ops = False,
    prefix_tokens: PrefixTokens = None,
    axes: Axes = None,
    everything: Annotated[bool, typer.Option("--all", help="Containers too, not only leaf calls.")] = False,
) -> Said:
    """List the layers of a model in the order in which they run."""
    import torch

    from probes.capturing.axes import letters_of
    from probes.capturing.steps import examined
    from repanalysis.inputs.models import load_model

    torch.manual_seed(settings.seed)
    built = load_model(model, weights=weights, size=size)
    selected = "*" if everything and not layers else layers
    example, ids_from = _example(built, data, split)
    recording = examined(built.module, example, layers=selected, ops=ops, prefix_tokens=prefix_tokens, axes=axes)
    found = [asdict(info) for info in recording.info.values()]
    rows = []
    for info in recording.info.values():
        shape = "x".join(map(str, info.source_shape))
        axes_found = [letters_of(info.source_dims), info.axes_from, info.prefix_tokens or ""]
        rows.append([info.order, info.name, info.module_type, shape, *axes_found, f"{info.depth:.3f}"])
    header = ["order", "layer", "type", "shape", "axes", "from", "prefix", "depth"]
    text = columns(header, rows) + without(recording.left_out)
    if ids_from:
        text += f"\n\nSample ids are {IDS_FROM[ids_from]}."
    return Said(text, {"layers": found, "left_out": recording.left_out} | ({"ids_from": ids_from} if ids_from else {}))


def _example(model: Any, data: str | None, split: str | None) -> tuple[Any, str]:
    """One sample for a model, and where the ids of its kind come from: from data, or zeros of the size that the model says."""
    import torch

    from repanalysis.extraction import taken_by
    from repanalysis.inputs.data import load_data

    if data is not None:
        samples = load_data(data, split=split, **taken_by(model))
        return samples[0][0][None], samples.ids_from
    if model.input_size is None:
        raise UsageError("The model does not say how large its inputs are; give --size, or --data for a sample.")
    return torch.zeros(1, *model.input_size, dtype=torch.int64 if model.takes_tokens else torch.float32), ""


@verb
def plan(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    budget: Annotated[
        str | None, typer.Option(help="What the file may weigh, such as 20GB; pools that fit are proposed.")
    ] = None,
    weights: Weights = None,
    split: Split = None,
    limit: Limit = None,
    layers: Layers = None,
    pool: Pool = None,
    ops: Ops = False,
    prefix_tokens: PrefixTokens = None,
    axes: Axes = None,
    dtype: Dtype = "auto",
    size: Size = None,
    mean: Colours = None,
    std: Colours = None,
) -> Said:
    """Say what extracting would write, layer by layer, before anything is written."""
    from probes.planning import fit
    from repanalysis import extraction

    run = extraction.prepare(
        model, data, weights=weights, split=split, limit=limit, layers=layers, pool=pool or "mean", ops=ops,
        prefix_tokens=prefix_tokens, axes=axes, dtype=dtype, size=size, mean=numbers(mean), std=numbers(std),
        seed=settings.seed,
    )  # fmt: skip
    planned = extraction.plan(run)
    if budget is not None:
        planned = fit(planned, _bytes(budget))
    return _planned(planned, 1 if run.data.labels is None else len(set(run.data.labels.tolist())))


def _planned(planned: Any, classes: int) -> Said:
    """A plan as a table, with what it costs to analyse, and the command's pools."""
    from probes.planning import readable
    from repanalysis.statistics import ClassMoments

    rows, data = [], []
    for layer in planned.layers:
        info, d = layer.info, math.prod(layer.shape)
        state = ClassMoments().state_bytes(d, classes)
        total = planned.n * layer.bytes_per_sample
        kept = {"pool": info.pool, "kept": layer.shape, "bytes_per_sample": layer.bytes_per_sample, "bytes": total}
        data.append({"layer": info.name, "type": info.module_type, "shape": info.source_shape, **kept, "state_bytes": state})
        shapes = ["x".join(map(str, shape)) for shape in (info.source_shape, layer.shape)]
        sizes = [readable(count) for count in (layer.bytes_per_sample, total, state)]
        rows.append([info.name, info.module_type, shapes[0], info.pool, shapes[1], *sizes])
    header = ["layer", "type", "shape", "pool", "kept", "per sample", f"{planned.n} samples", "statistics"]
    pools = " ".join(f"--pool '{pool}'" for pool in planned.pools)
    text = f"{columns(header, rows)}{without(planned.left_out)}\n\nTotal: {readable(planned.bytes)} for {planned.n} samples."
    if planned.lost:
        text += (
            "\n\nTo fit the budget:\n" + "\n".join(f"  {sentence}" for sentence in planned.lost) + f"\nExtract with: {pools}"
        )
    facts = {"bytes": planned.bytes, "n": planned.n, "pools": planned.pools, "lost": planned.lost}
    return Said(text, {"layers": data, **facts, "left_out": planned.left_out})


def _bytes(text: str) -> int:
    """`"20GB"` in bytes."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([kKMGT]?)(i?)[bB]?\s*", text)
    try:
        number = float(found[1]) if found else -1.0
    except ValueError:
        number = -1.0
    if not found or not 0 < number < 1e30:
        raise UsageError(f"{text!r} is no size; write it like 20GB, 500MB or 2GiB.")
    return int(number * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))


@verb
def extract(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="acts.h5; under torchrun a folder; with --metrics a .csv.")],
    weights: Weights = None,
    split: Split = None,
    limit: Limit = None,
    layers: Layers = None,
    pool: Pool = None,
    ops: Ops = False,
    prefix_tokens: PrefixTokens = None,
    axes: Axes = None,
    dtype: Dtype = "auto",
    size: Size = None,
    mean: Colours = None,
    std: Colours = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per forward pass.")] = 64,
    workers: Workers = 0,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="float32; bfloat16 or float16 for automatic mixed precision.")] = "float32",
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Give images in channels-last memory.")] = False,
    compression: Compression = "none",
    metrics: Metrics = None,
    state_budget: Budget = 2.0,
    strict: Strict = False,
    labels: Labels = None,
    targets: Targets = None,
    ignore_label: IgnoreLabel = None,
    head_classes: Annotated[
        Path | None, typer.Option(help="Names of the rows of the model's last layer, one a line, to match classes by.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a file whose writing was stopped.")] = False,
    overwrite: Overwrite = False,
) -> Said:
    """Run a model over data and write what its layers gave out; or, with --metrics, the metrics alone."""
    from probes.atomic_files import plain_file
    from probes.storage.writer import refuse_existing
    from repanalysis import extraction

    table = metrics is not None or output.suffix in (".csv", ".parquet")
    if table:
        free("table format", output, TABLES, overwrite=overwrite)
    elif not output.is_dir():
        plain_file(output) if resume else refuse_existing(output, overwrite=overwrite)
    writable(output)
    run = extraction.prepare(
        model, data, weights=weights, split=split, limit=limit, layers=layers, pool=pool or "mean", ops=ops,
        prefix_tokens=prefix_tokens, axes=axes, dtype=dtype, size=size, mean=numbers(mean), std=numbers(std),
        batch_size=batch_size, workers=workers, device=device, precision=precision, channels_last=channels_last,
        seed=settings.seed, labels=labels, targets=targets, ignore_labels=ignore_label or (), head_classes=head_classes,
    )  # fmt: skip
    if table:
        options: dict[str, Any] = {
            "name": output.stem,
            "state_budget": int(state_budget * 2**30),
            "progress": settings.progress,
            "strict": strict,
        }
        return tabled(extraction.stream(run, metrics, **options), output)
    options = {"compression": compression, "overwrite": overwrite, "resume": resume, "progress": settings.progress}
    return written(extraction.write(run, output, **options), output)
