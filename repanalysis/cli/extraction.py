"""`repanalysis layers`, `plan` and `extract`: from a network and data to activations."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from probes.atomic_files import plain_file
from probes.capturing.axes import letters_of
from probes.capturing.steps import examined
from probes.errors import UsageError
from probes.ids import IDS_FROM
from probes.options import CaptureOptions
from probes.planning import fit, readable
from probes.storage.writer import check_target
from repanalysis import extraction
from repanalysis._checks import writable
from repanalysis.cli._arguments import DataSpec, ModelSpec
from repanalysis.cli._declared import Options
from repanalysis.cli._outputs import TABLES, check_output_path, recording_summary, save_table
from repanalysis.cli._tables import columns
from repanalysis.cli._texts import without
from repanalysis.cli._verbs import CommandResult, Settings, command
from repanalysis.inputs.data import load_data
from repanalysis.inputs.models import load_model
from repanalysis.statistics import ClassMoments

Split = Annotated[str | None, typer.Option(help="Split of the data.")]
Capture = Annotated[Any, Options(CaptureOptions)]


@command
def layers(
    settings: Settings,
    model: ModelSpec,
    weights: Annotated[str, typer.Option(help="Safetensors or torch file; 'random' for the untrained network.")] = "random",
    data: Annotated[str | None, typer.Option(help="Take the first sample from here, not zeros.")] = None,
    split: Split = None,
    look: Annotated[Any, Options(extraction.build_run, only=("size",))] = None,
    capture: Capture = None,
    everything: Annotated[bool, typer.Option("--all", help="Containers too, not only leaf calls.")] = False,
) -> CommandResult:
    """List the layers of a model in the order of execution."""
    torch.manual_seed(settings.seed)
    constructed = weights == "random" and model.startswith("redunet:")  # it has no random weights
    built = load_model(model, weights=None if constructed else weights, size=look["size"])
    keywords = capture.keywords()
    if everything and capture.layers is None:
        keywords["layers"] = "*"
    example, ids_from = _example(built, data, split)
    recording = examined(built.module, example, **keywords)
    rows = []
    for info in recording.info.values():
        shape = "x".join(map(str, info.source_shape))
        axes = [letters_of(info.source_dims), info.axes_from, info.prefix_tokens or ""]
        rows.append([info.order, info.name, info.module_type, shape, *axes, f"{info.depth:.3f}"])
    header = ["order", "layer", "type", "shape", "axes", "from", "prefix", "depth"]
    text = columns(header, rows) + without(recording.skipped)
    facts = {"layers": [asdict(info) for info in recording.info.values()], "left_out": recording.skipped}
    if ids_from:
        text += f"\n\nSample ids are {IDS_FROM[ids_from]}."
        facts["ids_from"] = ids_from
    return CommandResult(text, facts)


def _example(model: Any, data: str | None, split: str | None) -> tuple[Any, str]:
    """One sample for a model, from data or zeros of the model's size, and the origin of its ids."""
    if data is not None:
        samples = load_data(data, split=split, **extraction.data_options(model))
        return samples[0][0][None], samples.ids_from
    if model.input_size is None:
        raise UsageError("The model does not say how large its inputs are; give --size, or --data for a sample.")
    return torch.zeros(1, *model.input_size, dtype=torch.int64 if model.takes_tokens else torch.float32), ""


@command
def plan(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    budget: Annotated[
        str | None, typer.Option(help="What the file may weigh, such as 20GB; pools that fit are proposed.")
    ] = None,
    split: Split = None,
    inputs: Annotated[Any, Options(extraction.build_run, without=("workers",))] = None,
    capture: Capture = None,
) -> CommandResult:
    """Show the size of every layer that extract would write, before anything is written."""
    run = extraction.build_run(model, data, **inputs, **capture.keywords() | {"split": split, "seed": settings.seed})
    planned = extraction.plan(run)
    if budget is not None:
        planned = fit(planned, _bytes(budget))
    return _planned(planned, 1 if run.data.labels is None else len(set(run.data.labels.tolist())))


def _planned(planned: Any, classes: int) -> CommandResult:
    """A plan as a table, with the cost of the analysis and the pools of the command."""
    rows, data = [], []
    for layer in planned.layers:
        info, d = layer.info, math.prod(layer.shape)
        state = ClassMoments().state_bytes(d, classes)
        total = planned.n * layer.bytes_per_sample
        sizes_kept = {"pool": info.pool, "kept": layer.shape, "bytes_per_sample": layer.bytes_per_sample, "bytes": total}
        data.append(
            {"layer": info.name, "type": info.module_type, "shape": info.source_shape, **sizes_kept, "state_bytes": state}
        )
        shapes = ["x".join(map(str, shape)) for shape in (info.source_shape, layer.shape)]
        sizes = [readable(count) for count in (layer.bytes_per_sample, total, state)]
        rows.append([info.name, info.module_type, shapes[0], info.pool, shapes[1], *sizes])
    header = ["layer", "type", "shape", "pool", "kept", "per sample", f"{planned.n} samples", "statistics"]
    pools = " ".join(f"--pool '{pool}'" for pool in planned.pools)
    text = f"{columns(header, rows)}{without(planned.skipped)}\n\nTotal: {readable(planned.bytes)} for {planned.n} samples."
    if planned.lost:
        text += (
            "\n\nTo fit the budget:\n" + "\n".join(f"  {sentence}" for sentence in planned.lost) + f"\nExtract with: {pools}"
        )
    facts = {"bytes": planned.bytes, "n": planned.n, "pools": planned.pools, "lost": planned.lost}
    return CommandResult(text, {"layers": data, **facts, "left_out": planned.skipped})


def _bytes(text: str) -> int:
    """`"20GB"` in bytes."""
    match = re.fullmatch(r"\s*([\d.]+)\s*([kKMGT]?)(i?)[bB]?\s*", text)
    try:
        number = float(match[1]) if match else -1.0
    except ValueError:
        number = -1.0
    if not match or not 0 < number < 1e30:
        raise UsageError(f"{text!r} is not a size; write it like 20GB, 500MB or 2GiB.")
    return int(number * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))


@command
def extract(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="acts.h5; under torchrun a folder; with --metrics a .csv.")],
    split: Split = None,
    inputs: Annotated[Any, Options(extraction.build_run)] = None,
    capture: Capture = None,
    writing: Annotated[Any, Options(extraction.write)] = None,
    computing: Annotated[Any, Options(extraction.stream)] = None,
) -> CommandResult:
    """Run a model over data and write the outputs of its layers; or, with --metrics, the metrics alone."""
    is_table = computing["metrics"] is not None or output.suffix in (".csv", ".parquet")
    if is_table:
        check_output_path("table format", output, TABLES, overwrite=writing["overwrite"])
    elif not output.is_dir():  # the files in a folder of shards are checked by probes.record
        if writing["resume"]:
            plain_file(output)
        else:
            check_target(output, overwrite=writing["overwrite"])
    writable(output)
    run = extraction.build_run(model, data, **inputs, **capture.keywords() | {"split": split, "seed": settings.seed})
    if is_table:
        return save_table(extraction.stream(run, name=output.stem, **computing), output)
    return recording_summary(extraction.write(run, output, **writing), output)
