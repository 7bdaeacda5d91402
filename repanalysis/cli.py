"""The command line: a thin layer over the library, and the only place where capture, store and engine meet.

Every verb takes --seed, --threads, --quiet, --json and --config, and ends with 0 (ok), 1 (failure), 2 (usage) or 3
(incomplete data). A failure is one sentence on stderr; with REPANALYSIS_TRACEBACK set, the traceback as well.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import tomllib
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probes.errors import LeftOutWarning, ReportedError, UsageError
from repanalysis._checks import one_of

if TYPE_CHECKING:
    import pandas as pd

    from repanalysis.table import Table

__all__ = ["app"]

app = typer.Typer(
    name="repanalysis",
    help="What a network does to its data, layer by layer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"repanalysis {version('repanalysis')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """What a network does to its data, layer by layer."""


_HEADLINES = (("fisher_ratio", ""), ("rate_reduction", ""), ("within_class_variance", "relative"))


@dataclass(frozen=True)
class Settings:
    """What every verb is told."""

    seed: int
    threads: int | None
    quiet: bool
    json: bool

    @property
    def progress(self) -> bool | None:
        """None: on a terminal only."""
        return False if self.quiet or self.json else None


@dataclass(frozen=True)
class Said:
    """What a verb has to say: lines for people, data for programs."""

    text: str
    data: Any


def _configured(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take a verb's defaults from a TOML file: keys at its top, or in a table with the verb's name."""
    if path is None:
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise typer.BadParameter(f"There is no file {path}.") from None
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"{path} is no TOML file: {error}.") from None
    shared = {key: value for key, value in content.items() if not isinstance(value, dict)}
    settings = {key.replace("-", "_"): value for key, value in (shared | content.get(ctx.info_name or "", {})).items()}
    known = [parameter.name or "" for parameter in ctx.command.params]
    try:
        for key in settings:
            one_of(f"key of {ctx.info_name} in {path}", key, known)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    ctx.default_map = settings
    return path


_COMMON: dict[str, Any] = {
    "seed": Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")],
    "threads": Annotated[int | None, typer.Option(min=1, help="Threads to compute with; default all cores.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")],
    "as_json": Annotated[bool, typer.Option("--json", help="Print the result as JSON.")],
    "config": Annotated[
        Path | None, typer.Option(callback=_configured, is_eager=True, help="TOML file with options of this verb.")
    ],
}
_DEFAULTS = {"seed": 0, "threads": None, "quiet": False, "as_json": False, "config": None}


def verb(function: Callable[..., Said]) -> Callable[..., Said]:
    """Register a verb: add the common options, and turn every failure into a sentence and an exit code."""
    signature = inspect.signature(function, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "settings"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    common = [
        inspect.Parameter(name, keyword, default=_DEFAULTS[name], annotation=annotation) for name, annotation in _COMMON.items()
    ]

    @wraps(function)
    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in _COMMON}
        settings = Settings(given["seed"], given["threads"], given["quiet"], given["as_json"])
        try:
            with _threads(settings.threads), warnings.catch_warnings():
                warnings.simplefilter("ignore", LeftOutWarning)  # the verbs list what is left out themselves
                said = function(settings=settings, **values)
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("REPANALYSIS_TRACEBACK"):
                traceback.print_exc()
            typer.echo(f"Error: {_sentence(error)}", err=True)
            code = 2 if isinstance(error, FileNotFoundError) else getattr(error, "exit_code", 1)
            raise typer.Exit(code) from None
        if settings.json:
            typer.echo(json.dumps(_plain(said.data), ensure_ascii=False, indent=1))
        elif not settings.quiet:
            typer.echo(said.text)

    parameters = [parameter.replace(kind=keyword) for parameter in own] + common
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command()(run)
    return function


def _threads(threads: int | None) -> ExitStack:
    """Limit BLAS, OpenMP and torch to so many threads."""
    stack = ExitStack()
    if threads is not None:
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    return stack


def _sentence(error: BaseException) -> str:
    """One line: the message, the kind of error where the message was not written for users, and the notes."""
    first = str(error).strip().partition("\n")[0]
    plain = isinstance(error, ReportedError | FileNotFoundError)
    stopped = isinstance(error, KeyboardInterrupt)
    text = "Stopped." if stopped else first if plain else f"{type(error).__name__}: {first}"
    return " ".join([text, *(f"({note})" for note in getattr(error, "__notes__", ()))])


def _plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become null and strings."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


ModelSpec = Annotated[str, typer.Argument(help="timm:NAME or py:package.module:factory")]
DataSpec = Annotated[str, typer.Option("--data", help="digits, imagefolder:DIR (or a tar of one) or npz:FILE")]
Weights = Annotated[str | None, typer.Option(help="Safetensors or torch file; 'random' for the untrained network.")]
Layers = Annotated[list[str] | None, typer.Option("--layers", "-l", help="Glob, re:REGEX or type:CLASS; repeat it.")]
Size = Annotated[int | None, typer.Option(min=1, help="Side of the images, if not the model's own.")]
Colours = Annotated[str | None, typer.Option(help="Numbers per colour, such as 0.5,0.5,0.5; if not the model's own.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]


def _numbers(text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no list of numbers; write them like 0.5,0.5,0.5.") from None


@verb
def demo(
    settings: Settings,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("demo"),
    overwrite: Overwrite = False,
) -> Said:
    """Train a small network on handwritten digits and show what training changes, layer by layer."""
    from repanalysis.demo import run_demo

    done = run_demo(output, seed=settings.seed, overwrite=overwrite, progress=settings.progress)
    files = "\n".join(f"  {file}" for file in done.files)
    text = (
        f"{_pretty(done.table)}\n\nTest accuracy of the trained network: {done.accuracy:.1%}\n\nWritten:\n{files}\n\n"
        f"Look at {done.files[-1]}. Then try your own model:\n"
        f"  repanalysis extract timm:resnet18 --data imagefolder:DIR -o acts.h5\n"
        f"  repanalysis analyze acts.h5 -o results.csv\n"
        f"  repanalysis plot results.csv -o depth.svg"
    )
    return Said(text, {"accuracy": done.accuracy, "files": [str(file) for file in done.files], **_data(done.table)})


@verb
def layers(
    settings: Settings,
    model: ModelSpec,
    weights: Weights = "random",
    data: Annotated[str | None, typer.Option(help="Take the first sample from here, not zeros.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = None,
    layers: Layers = None,
    size: Size = None,
    everything: Annotated[bool, typer.Option("--all", help="Containers too, not only leaf calls.")] = False,
) -> Said:
    """List the layers of a model in the order in which they run."""
    import torch

    import probes
    from repanalysis.models import load_model

    torch.manual_seed(settings.seed)
    built = load_model(model, weights=weights, size=size)
    example = _example(built, data, split)
    with probes.attach(built.module, "*" if everything and not layers else layers) as recording, torch.no_grad():
        built.module(example)
    found = [asdict(info) for info in recording.info.values()]
    rows = [
        [i["order"], i["name"], i["module_type"], "x".join(map(str, i["source_shape"])), f"{i['depth']:.3f}"] for i in found
    ]
    text = _columns(["order", "layer", "type", "shape", "depth"], rows) + _left_out(recording.left_out)
    return Said(text, {"layers": found, "left_out": recording.left_out})


def _example(model: Any, data: str | None, split: str | None) -> Any:
    """One sample for a model: from data, or zeros of the size that the model says."""
    import torch

    from repanalysis.data import load_data

    if data is not None:
        return load_data(data, split=split, transform=model.transform, colours=_colours(model))[0][0][None]
    if model.input_size is None:
        raise UsageError("The model does not say how large its inputs are; give --size, or --data for a sample.")
    return torch.zeros(1, *model.input_size)


def _colours(model: Any) -> int:
    return 3 if model.input_size is None else int(model.input_size[0])


@verb
def extract(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, such as acts.h5.")],
    weights: Weights = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Random subset of so many samples.")] = None,
    layers: Layers = None,
    pool: Annotated[str, typer.Option(help="What to keep: mean, max, flatten or none.")] = "mean",
    size: Size = None,
    mean: Colours = None,
    std: Colours = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per forward pass.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 0,
    device: Annotated[str | None, typer.Option(help="Such as cuda or cpu; default cuda where there is one.")] = None,
    compression: Annotated[str, typer.Option(help="none, lzf or gzip")] = "none",
    overwrite: Overwrite = False,
) -> Said:
    """Run a model over data and write what its layers gave out."""
    import torch

    import probes
    from probes.writer import refuse_existing
    from repanalysis.data import load_data
    from repanalysis.models import load_model

    refuse_existing(output, overwrite=overwrite)
    torch.manual_seed(settings.seed)
    built = load_model(model, weights=weights, size=size, mean=_numbers(mean), std=_numbers(std))
    samples = load_data(data, split=split, transform=built.transform, colours=_colours(built))
    samples = samples if limit is None else samples.sample(limit, seed=settings.seed)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    attrs = built.card | {"dataset": data, "seed": settings.seed, "command": " ".join(["repanalysis", *sys.argv[1:]])}
    store = probes.record(
        built.module.to(where), samples.loader(batch_size, workers=workers), output, layers=layers, pool=pool,
        split=samples.split, device=where, attrs=attrs, class_names=samples.class_names, compression=compression,
        overwrite=overwrite, progress=settings.progress,
    )  # fmt: skip
    size_mb = output.stat().st_size / 2**20
    text = f"{output}: {len(store)} samples, {len(store.layers)} layers, {size_mb:.1f} MB{_left_out(store.left_out)}"
    return Said(text, {"path": str(output), "n": len(store), "layers": store.layers, "left_out": store.left_out})


@verb
def analyze(
    settings: Settings,
    sources: Annotated[list[Path], typer.Argument(help="Activations files; a folder is read as shards of one run.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", "-m", help="Such as fisher_ratio,rate_reduction:eps_sq=0.1")
    ] = None,
    layers: Layers = None,
    partial: Annotated[bool, typer.Option("--partial", help="Read what is there of an incomplete file.")] = False,
    state_budget: Annotated[float, typer.Option(min=0, help="GiB that the statistics of a layer may take.")] = 2.0,
    overwrite: Overwrite = False,
) -> Said:
    """Compute metrics of every layer."""
    from probes.writer import refuse_existing
    from repanalysis.engine import analyze as analyze_source
    from repanalysis.table import Table

    if output is not None:
        one_of("table format", refuse_existing(output, overwrite=overwrite).suffix, (".csv", ".parquet"))
    options: dict[str, Any] = {"layers": layers, "partial": partial, "progress": settings.progress}
    options["state_budget"] = int(state_budget * 2**30)
    tables = [analyze_source(source, metrics, **options) for source in sources]
    table = Table.concat(tables)
    if output is not None:
        table.save(output)
    written = "" if output is None else f"\n\n{output}: {len(table)} values. Next: repanalysis plot {output} -o depth.svg"
    return Said(_pretty(table) + written, _data(table))


@verb
def plot(
    settings: Settings,
    tables: Annotated[list[Path], typer.Argument(help="Tables that analyze wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Figure to write: .svg, .pdf or .png.")],
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help="Metric to show; repeat it. Default all.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of a single metric, such as relative.")] = None,
    x: Annotated[str, typer.Option("--x", help="auto, layer or depth")] = "auto",
    overwrite: Overwrite = False,
) -> Said:
    """Draw metrics against depth."""
    import matplotlib

    matplotlib.use("agg")
    from probes.writer import refuse_existing
    from repanalysis.plots import depth, overview
    from repanalysis.table import Table

    one_of("figure format", refuse_existing(output, overwrite=overwrite).suffix, (".svg", ".pdf", ".png"))
    one_of("x", x, ("auto", "layer", "depth"))
    if variant is not None and len(metric or ()) != 1:
        raise UsageError("--variant belongs to one metric; give --metric once.")
    table = Table.concat([Table.load(path) for path in tables])
    if metric and len(metric) == 1:
        figure: Any = depth(table, metric=metric[0], variant=variant or "", x=x).figure  # type: ignore[arg-type]
    else:
        figure = overview(table, metrics=metric, x=x)  # type: ignore[arg-type]
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
    return Said(f"{output}: {table.frame['metric'].nunique() if not metric else len(metric)} metrics.", {"path": str(output)})


@verb
def info(
    settings: Settings,
    path: Annotated[Path, typer.Argument(help="An activations file.")],
) -> Said:
    """Say where an activations file comes from, and what it holds."""
    from probes.store import Store

    store = Store(path, partial=True)
    state = "complete" if store.complete else f"INCOMPLETE: writing stopped after {len(store)} samples"
    facts = {key: value for key, value in store.attrs.items() if key not in ("format", "complete", "n_committed", "left_out")}
    labels = store.labels
    facts |= {"samples": len(store), "classes": "none" if labels is None else len(set(labels.tolist())), "state": state}
    found = [asdict(layer) for layer in store.info.values()]
    rows = [
        [i["order"], i["name"], i["module_type"], "x".join(map(str, i["source_shape"])), i["pool"], f"{i['depth']:.3f}"]
        for i in found
    ]
    lines = "\n".join(f"{key:16} {value}" for key, value in facts.items())
    text = f"{lines}\n\n{_columns(['order', 'layer', 'type', 'shape', 'pool', 'depth'], rows)}{_left_out(store.left_out)}"
    return Said(text, facts | {"complete": store.complete, "layers": found, "left_out": store.left_out})


def _columns(header: list[str], rows: list[list[Any]], *, numeric: bool = False) -> str:
    """A table in plain text, words to the left and numbers to the right."""
    lines = [header, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [numeric or not isinstance(cell, str) for cell in rows[0]] if rows else [numeric] * len(header)
    return "\n".join(
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )


def _left_out(reasons: dict[str, str]) -> str:
    """Lines on the layers that could not be recorded."""
    lines = "\n".join(f"  {name}: {why}" for name, why in reasons.items())
    return f"\n{len(reasons)} left out:\n{lines}" if reasons else ""


def _data(table: Table) -> dict[str, Any]:
    return {"rows": table.frame.to_dict("records"), "provenance": dict(table.provenance)}


def _pretty(table: Table) -> str:
    """The headline metrics side by side, a row per layer and a column per run; then what is undefined, and why."""
    frame = table.frame
    present = list(dict.fromkeys(zip(frame["metric"], frame["variant"], strict=True)))
    layers, runs = list(dict.fromkeys(frame["layer"])), list(dict.fromkeys(frame["run"]))
    blocks = [["", *([""] if len(runs) > 1 else []), *layers]]
    for metric, variant in [pair for pair in _HEADLINES if pair in present] or present[:3]:
        rows = frame[(frame["metric"] == metric) & (frame["variant"] == variant)]
        values = {(run, layer): value for run, layer, value in zip(rows["run"], rows["layer"], rows["value"], strict=True)}
        body = [[_number(values.get((run, layer))) for run in runs] for layer in layers]
        lines = _columns(runs if len(runs) > 1 else body[0], body if len(runs) > 1 else body[1:], numeric=True).split("\n")
        blocks.append([metric.replace("_", " ") + (f" ({variant})" if variant else ""), *lines])
    text = "\n".join("   ".join(_padded(blocks, row)).rstrip() for row in range(len(blocks[0])))
    return "\n".join(filter(None, [text, _notes(frame)]))


def _padded(blocks: list[list[str]], row: int) -> list[str]:
    """One line of every block, each as wide as its block: names to the left, numbers to the right."""
    left, *rest = blocks
    head = [block[row].ljust if row == 0 else block[row].rjust for block in rest]
    return [left[row].ljust(max(map(len, left))), *(pad(max(map(len, block))) for pad, block in zip(head, rest, strict=True))]


def _number(value: float | None) -> str:
    return "" if value is None else "undefined" if math.isnan(value) else f"{value:.4g}"


def _notes(frame: pd.DataFrame) -> str:
    """What is undefined or infinite, and why, once per reason."""
    odd = frame[~frame["value"].between(-math.inf, math.inf, inclusive="neither")]
    reasons = odd.groupby("note", sort=False)["layer"].nunique()
    return "\n".join(f"Undefined or infinite at {count} layer{'s' * (count > 1)}: {note}." for note, count in reasons.items())


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
