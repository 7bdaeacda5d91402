"""Arguments and options of the command line only: names of networks and data, files to write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["DataSpec", "FigureFile", "ModelSpec", "Overwrite", "SourceFile", "TableFile", "TestFile", "TrainFile"]

ModelSpec = Annotated[
    str,
    typer.Argument(help="timm:NAME, torchvision:NAME, hf:NAME, scattering:J=3,L=8, small:vgg_bn or py:package.module:factory"),
]
DataSpec = Annotated[
    str, typer.Option("--data", help="digits, imagefolder:DIR (or a tar of one), npz:FILE, torchvision:CIFAR10,root=DIR")
]
SourceFile = Annotated[Path, typer.Argument(help="An activations file, or a folder of shards.")]
TrainFile = Annotated[Path, typer.Argument(help="Activations to fit heads on; or of both splits, train and test.")]
TestFile = Annotated[Path | None, typer.Argument(help="Activations of other samples, to measure with.")]
TableFile = Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]
FigureFile = Annotated[Path | None, typer.Option("--figure", "-f", help="Figure to draw: .svg, .pdf or .png.")]
