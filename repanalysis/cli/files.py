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
from repanalysis.cli._outputs import recording_summary
from repanalysis.cli._tables import columns
from repanalysis.cli._texts import without
from repanalysis.cli._verbs import CommandResult, Settings, as_plain_json, command


@command
def merge(
    settings: Settings,
    source: Annotated[Path, typer.Argument(help="Folder of shards.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, such as acts.h5.")],
    options: Annotated[Any, Options(probes.merge)] = None,
) -> CommandResult:
    """Write the shards of one run to one file."""
    with probes.open(source) as shards:
        return recording_summary(probes.merge(shards, output, **options), output)


@command
def info(
    settings: Settings,
    path: SourceFile,
) -> CommandResult:
    """Show origin and content of activations."""
    with probes.open(path, partial=True) as source:
        complete = all(store.complete for store in getattr(source, "stores", [source]) if isinstance(store, probes.Store))
        state = "complete" if complete else f"INCOMPLETE: writing stopped after {len(source)} samples"
        hidden = ("format", "complete", "n_committed", "left_out", "non_finite")
        facts = {key: value for key, value in source.attrs.items() if key not in hidden}
        labels = source.labels
        labelled = [] if labels is None else [label for label in labels.tolist() if label not in IGNORED]
        facts |= {"samples": len(source), "classes": "none" if labels is None else len(set(labelled)), "state": state}
        if labels is not None and len(labelled) < len(labels):
            facts["without a label"] = len(labels) - len(labelled)
        if (targets := source.targets) is not None:
            facts["targets"] = ", ".join(source.target_names) or targets.shape[1]
        if source.non_finite:
            facts["non_finite"] = ", ".join(f"{layer}: {count}" for layer, count in source.non_finite.items())
        layers = [vars(layer) for layer in source.info.values()]
        skipped = source.skipped
    rows = [
        [i["order"], i["name"], i["module_type"], "x".join(map(str, i["source_shape"])), i["pool"], f"{i['depth']:.3f}"]
        for i in layers
    ]
    lines = "\n".join(printable(f"{key:16} {value}") for key, value in facts.items())
    text = f"{lines}\n\n{columns(['order', 'layer', 'type', 'shape', 'pool', 'depth'], rows)}{without(skipped)}"
    return CommandResult(text, facts | {"complete": complete, "layers": layers, "left_out": skipped})


@command
def verify(
    settings: Settings,
    model: ModelSpec,
    path: SourceFile,
    options: Annotated[Any, Options(extraction.verify)] = None,
) -> CommandResult:
    """Run the model again on random samples of a file, and compare the outputs of its layers."""
    differences = extraction.verify(model, path, **options)
    rows = [
        [difference.layer, f"{difference.largest:.2g}", f"{difference.scale:.4g}", "equal" if difference.ok else "DIFFERENT"]
        for difference in differences
    ]
    text = columns(["layer", "largest difference", "largest value", ""], rows)
    if different := [difference.layer for difference in differences if not difference.ok]:
        raise DataError(
            f"{path} does not hold what {model} computes now: {len(different)} of {len(differences)} layers differ "
            f"({different[0]} first)."
        )
    data_out = [asdict(difference) | {"ok": difference.ok} for difference in differences]
    return CommandResult(
        f"{text}\n\n{path}: {len(differences)} layers come out again, on {options['samples']} random samples at most.", data_out
    )


@command
def doctor(
    settings: Settings,
    path: SourceFile,
) -> CommandResult:
    """Read every byte of a file; report what is intact and what is damaged, with advice."""
    from probes.checking import doctor as examine

    findings = examine(path, progress=settings.progress)
    lines = [
        printable(f"{finding.state.upper():10} {finding.path}: {finding.what.rstrip('.')}.")
        + (f"\n{'':10} {printable(finding.advice)}" if finding.advice else "")
        for finding in findings
    ]
    result = CommandResult("\n".join(lines), [asdict(finding) for finding in findings])
    if all(finding.ok for finding in findings):
        return result
    if not settings.quiet:
        say(as_json(as_plain_json(result.data)) if settings.json else printable(result.text, lines=True))
    failed = [finding for finding in findings if not finding.ok]
    kind = (
        IncompleteError if all(finding.state in ("resumable", "empty", "busy", "missing") for finding in failed) else DataError
    )
    raise kind(f"{len(failed)} of {len(findings)} files need attention.")
