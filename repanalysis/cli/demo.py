"""`repanalysis demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repanalysis.cli._declared import Options
from repanalysis.cli._texts import data_of, pretty
from repanalysis.cli._verbs import CommandResult, Settings, command
from repanalysis.studies.demo import run_demo


@command
def demo(
    settings: Settings,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("demo"),
    options: Annotated[Any, Options(run_demo)] = None,
) -> CommandResult:
    """Train a small network on handwritten digits and show what training changes, layer by layer."""
    done = run_demo(output, **options)
    files = "\n".join(f"  {file}" for file in done.files)
    text = (
        f"{pretty(done.table)}\n\nTest accuracy of the trained network: {done.accuracy:.1%}\n\nWritten:\n{files}\n\n"
        f"Look at {done.files[-1]}. Then try your own model:\n"
        f"  repanalysis extract timm:resnet18 --data imagefolder:DIR -o acts.h5\n"
        f"  repanalysis analyze acts.h5 -o results.csv\n"
        f"  repanalysis plot results.csv -o depth.svg"
    )
    return CommandResult(text, {"accuracy": done.accuracy, "files": [str(file) for file in done.files], **data_of(done.table)})
