"""`repanalysis merge`, `info`, `verify` and `doctor`: files of activations."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import probes
from probes.errors import DataError, IncompleteError
from probes.labels import IGNORED
from probes.printable import as_json, printable
from repanalysis import extraction
from repanalysis.cli._arguments import ModelSpec, SourceFile
from repanalysis.cli._declared import Options
from repanalysis.cli._failures import say
from repanalysis.cli._outputs import written
from repanalysis.cli._texts import columns, without
from repanalysis.cli._verbs import CommandResult, Settings, plain, verb


@verb
def merge(
    settings: Settings,
    source: Annotated[Path, typer.Argument(help="Folder of shards.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, such as acts.h5.")],
    options: Annotated[Any, Options(probes.merge)] = None,
) -> CommandResult:
    """Write the shards of one run to one file."""
    with probes.open(source) as shards:
        return written(probes.merge(shards, output, **options), output)


@verb
def info(
    settings: Settings,
    path: SourceFile,
) -> CommandResult:
    """Say where activations come from, and what is in them."""
    with probes.open(path, partial=True) as source:
        complete = all(store.complete for store in getattr(source, "stores", [source]) if isinstance(store, probes.Store))
        state = "complete" if complete else f"INCOMPLETE: writing stopped after {len(source)} samples"
        hidden = ("format", "complete", "n_committed", "left_out", "non_finite")
        facts = {key: value for key, value in source.attrs.items() if key not in hidden}
        labels = source.labels
        known = [] if labels is None else [label for label in labels.tolist() if label not in IGNORED]
        facts |= {"samples": len(source), "classes": "none" if labels is None else len(set(known)), "state": state}
        if labels is not None and len(known) < len(labels):
            facts["without a label"] = len(labels) - len(known)
        if (targets := source.targets) is not None:
            facts["targets"] = ", ".join(source.target_names) or targets.shape[1]
        if source.non_finite:
            facts["non_finite"] = ", ".join(f"{layer}: {count}" for layer, count in source.non_finite.items())
        found = [vars(layer) for layer in source.info.values()]
        left_out = source.left_out
    rows = [
        [i["order"], i["name"], i["module_type"], "x".join(map(str, i["source_shape"])), i["pool"], f"{i['depth']:.3f}"]
        for i in found
    ]
    lines = "\n".join(printable(f"{key:16} {value}") for key, value in facts.items())
    text = f"{lines}\n\n{columns(['order', 'layer', 'type', 'shape', 'pool', 'depth'], rows)}{without(left_out)}"
    return CommandResult(text, facts | {"complete": complete, "layers": found, "left_out": left_out})


@verb
def verify(
    settings: Settings,
    model: ModelSpec,
    path: SourceFile,
    options: Annotated[Any, Options(extraction.verify)] = None,
) -> CommandResult:
    """Run the model again on random samples of a file, and compare what its layers give out."""
    found = extraction.verify(model, path, **options)
    rows = [[one.layer, f"{one.largest:.2g}", f"{one.scale:.4g}", "equal" if one.ok else "DIFFERENT"] for one in found]
    text = columns(["layer", "largest difference", "largest value", ""], rows)
    if odd := [one.layer for one in found if not one.ok]:
        raise DataError(f"{path} is not what {model} gives out now: {len(odd)} of {len(found)} layers differ ({odd[0]} first).")
    data_out = [asdict(one) | {"ok": one.ok} for one in found]
    return CommandResult(
        f"{text}\n\n{path}: {len(found)} layers come out again, on {options['samples']} random samples at most.", data_out
    )


@verb
def doctor(
    settings: Settings,
    path: SourceFile,
) -> CommandResult:
    """Read everything that a file holds; say what is whole, what is not, and what to do."""
    from probes.checking import doctor as examine

    found = examine(path, progress=settings.progress)
    lines = [
        printable(f"{one.state.upper():10} {one.path}: {one.what.rstrip('.')}.")
        + (f"\n{'':10} {printable(one.advice)}" if one.advice else "")
        for one in found
    ]
    said = CommandResult("\n".join(lines), [asdict(one) for one in found])
    if all(one.ok for one in found):
        return said
    if not settings.quiet:
        say(as_json(plain(said.data)) if settings.json else printable(said.text, lines=True))
    odd = [one for one in found if not one.ok]
    kind = IncompleteError if all(one.state in ("resumable", "empty", "busy", "missing") for one in odd) else DataError
    raise kind(f"{len(odd)} of {len(found)} files need attention.")
