"""`repanalysis demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repanalysis.cli._choices import Overwrite
from repanalysis.cli._texts import data_of, pretty
from repanalysis.cli._verbs import Said, Settings, verb

if TYPE_CHECKING:
    pass


@verb
def demo(
    settings: Settings,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("demo"),
    overwrite: Overwrite = False,
) -> Said:
    """Train a small network on handwritten digits and show what training changes, layer by layer."""
    from repanalysis.studies.demo import run_demo

    done = run_demo(output, seed=settings.seed, overwrite=overwrite, progress=settings.progress)
    files = "\n".join(f"  {file}" for file in done.files)
    text = (
        f"{pretty(done.table)}\n\nTest accuracy of the trained network: {done.accuracy:.1%}\n\nWritten:\n{files}\n\n"
        f"Look at {done.files[-1]}. Then try your own model:\n"
        f"  repanalysis extract timm:resnet18 --data imagefolder:DIR -o acts.h5\n"
        f"  repanalysis analyze acts.h5 -o results.csv\n"
        f"  repanalysis plot results.csv -o depth.svg"
    )
    return Said(text, {"accuracy": done.accuracy, "files": [str(file) for file in done.files], **data_of(done.table)})
