"""Options that several verbs take."""

from __future__ import annotations

import math
import os
from typing import Annotated

import typer

from probes.errors import UsageError

MOST_PROCESSES = max(64, 4 * (os.cpu_count() or 1))  # and threads; many more make libraries crash


ModelSpec = Annotated[
    str,
    typer.Argument(help="timm:NAME, torchvision:NAME, hf:NAME, scattering:J=3,L=8, small:vgg_bn or py:package.module:factory"),
]


DataSpec = Annotated[
    str, typer.Option("--data", help="digits, imagefolder:DIR (or a tar of one), npz:FILE, torchvision:CIFAR10,root=DIR")
]


Weights = Annotated[str | None, typer.Option(help="Safetensors or torch file; 'random' for the untrained network.")]


Layers = Annotated[
    list[str] | None,
    typer.Option("--layers", "-l", help="Glob, re:REGEX or type:CLASS; '!PATTERN' leaves out. Repeat it."),
]


Size = Annotated[
    str | None,
    typer.Option(
        help="Side of the images (length of a signal or text), or a sample's shape, 3x16x112x112; if not the model's own."
    ),
]


Colours = Annotated[str | None, typer.Option(help="Numbers per colour, such as 0.5,0.5,0.5; if not the model's own.")]


Pool = Annotated[
    list[str] | None,
    typer.Option(
        help="What to keep: mean, max, mean_std, cls, tokens, flatten, none, grid:G or project:K; for some layers: "
        "'layer4*=none'. Repeat it; the first pattern that matches decides. Default mean."
    ),
]


Ops = Annotated[bool, typer.Option("--ops", help="Record operations too that are no modules (+, torch.cat, F.relu).")]


PrefixTokens = Annotated[int | None, typer.Option(min=0, help="CLS and register tokens; default: the model's own.")]


Axes = Annotated[
    list[str] | None,
    typer.Option(
        help="Axes of some layers, if not what is measured: 'blocks.*=TBC'. B samples, C channels, T tokens, H height, "
        "W width, D time, A heads, K keys, L layers, P windows, F features; (BP)TC for windows in the batch. Repeat it."
    ),
]


Dtype = Annotated[str, typer.Option(help="Type to keep: auto, float32 or float16.")]


Limit = Annotated[int | None, typer.Option(min=1, help="Random subset of so many samples.")]


Split = Annotated[str | None, typer.Option(help="Split of the data.")]


Device = Annotated[str | None, typer.Option(help="Such as cuda or cpu; default the GPU where there is one.")]


Workers = Annotated[int, typer.Option(min=0, max=MOST_PROCESSES, help="Processes that load images.")]


Compression = Annotated[str, typer.Option(help="none, lzf, gzip; lz4 or zstd with the extra 'compression'.")]


Partial = Annotated[bool, typer.Option("--partial", help="Read what is there of an incomplete file.")]


Budget = Annotated[float, typer.Option(min=0, max=2**20, help="GiB that the statistics may take.")]


Metrics = Annotated[str | None, typer.Option("--metrics", "-m", help="Such as fisher_ratio,rate_reduction:eps_sq=0.1")]


Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at a layer that cannot be analyzed; otherwise: NaN, the reason, exit code 3.")
]


Labels = Annotated[
    str | None,
    typer.Option(help="Labels in a file, FILE or FILE:COLUMN: npy, npz, csv, jsonl, or text with one a line."),
]


Targets = Annotated[str | None, typer.Option(help="Continuous targets in a file, likewise; several columns as FILE:A,B.")]


IgnoreLabel = Annotated[
    list[int] | None, typer.Option("--ignore-label", help="A label that means none, besides -1 and -100. Repeat it.")
]


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]


def numbers(text: str | None) -> tuple[float, ...] | None:
    """`"0.5,0.4"` -> (0.5, 0.4)."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UsageError(f"{text!r} is no list of numbers; write them like 0.5,0.5,0.5.")
    return values
