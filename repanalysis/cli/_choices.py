"""Options that several verbs take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from probes.errors import UsageError

if TYPE_CHECKING:
    pass


ModelSpec = Annotated[
    str,
    typer.Argument(help="timm:NAME, torchvision:NAME, hf:NAME, scattering:J=3,L=8, small:vgg_bn or py:package.module:factory"),
]


DataSpec = Annotated[str, typer.Option("--data", help="digits, imagefolder:DIR (or a tar of one) or npz:FILE")]


Weights = Annotated[str | None, typer.Option(help="Safetensors or torch file; 'random' for the untrained network.")]


Layers = Annotated[list[str] | None, typer.Option("--layers", "-l", help="Glob, re:REGEX or type:CLASS; repeat it.")]


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


Workers = Annotated[int, typer.Option(min=0, help="Processes that load images.")]


Compression = Annotated[str, typer.Option(help="none, lzf, gzip; lz4 or zstd with the extra 'compression'.")]


Partial = Annotated[bool, typer.Option("--partial", help="Read what is there of an incomplete file.")]


Budget = Annotated[float, typer.Option(min=0, help="GiB that the statistics may take.")]


Metrics = Annotated[str | None, typer.Option("--metrics", "-m", help="Such as fisher_ratio,rate_reduction:eps_sq=0.1")]


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
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no list of numbers; write them like 0.5,0.5,0.5.") from None
