"""The command line: a thin layer over the library, and the only place where capture, store and engine meet.

Every verb takes --seed, --threads, --quiet, --json and --config, and ends with 0 (ok), 1 (failure), 2 (usage) or 3
(incomplete data). A failure is one sentence on stderr; with REPANALYSIS_TRACEBACK set, the traceback as well.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import sys
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probes.errors import DataError, IncompleteError, LeftOutWarning, NonFiniteWarning, ReportedError, UsageError
from repanalysis._checks import one_of

if TYPE_CHECKING:
    import pandas as pd

    from probes.store import Store
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


_TABLES, _FIGURES = (".csv", ".parquet"), (".svg", ".pdf", ".png")
_MOST_COLUMNS = 12  # more columns than this do not fit a terminal
_MOST_EPOCHS = 12
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
                warnings.showwarning = _warned
                for told in (LeftOutWarning, NonFiniteWarning):  # the verbs tell this themselves
                    warnings.simplefilter("ignore", told)
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


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a sentence, without the line of code that it came from."""
    typer.echo(f"Warning: {str(message).partition(chr(10))[0]}", err=True)


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


ModelSpec = Annotated[
    str, typer.Argument(help="timm:NAME, torchvision:NAME, hf:NAME, scattering:J=3,L=8 or py:package.module:factory")
]
DataSpec = Annotated[str, typer.Option("--data", help="digits, imagefolder:DIR (or a tar of one) or npz:FILE")]
Weights = Annotated[str | None, typer.Option(help="Safetensors or torch file; 'random' for the untrained network.")]
Layers = Annotated[list[str] | None, typer.Option("--layers", "-l", help="Glob, re:REGEX or type:CLASS; repeat it.")]
Size = Annotated[int | None, typer.Option(min=1, help="Side of the images, if not the model's own.")]
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
Dtype = Annotated[str, typer.Option(help="Type to keep: auto, float32 or float16.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Random subset of so many samples.")]
Split = Annotated[str | None, typer.Option(help="Split of the data.")]
Device = Annotated[str | None, typer.Option(help="Such as cuda or cpu; default the GPU where there is one.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that load images.")]
Compression = Annotated[str, typer.Option(help="none, lzf, gzip; lz4 or zstd with the extra 'compression'.")]
Partial = Annotated[bool, typer.Option("--partial", help="Read what is there of an incomplete file.")]
Budget = Annotated[float, typer.Option(min=0, help="GiB that the statistics may take.")]
Metrics = Annotated[str | None, typer.Option("--metrics", "-m", help="Such as fisher_ratio,rate_reduction:eps_sq=0.1")]
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
    split: Split = None,
    layers: Layers = None,
    size: Size = None,
    ops: Ops = False,
    everything: Annotated[bool, typer.Option("--all", help="Containers too, not only leaf calls.")] = False,
) -> Said:
    """List the layers of a model in the order in which they run."""
    import torch

    import probes
    from repanalysis.models import load_model

    torch.manual_seed(settings.seed)
    built = load_model(model, weights=weights, size=size)
    example = _example(built, data, split)
    with probes.attach(built.module, "*" if everything and not layers else layers, ops=ops) as recording, torch.no_grad():
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
    from repanalysis.extraction import colours

    if data is not None:
        return load_data(data, split=split, transform=model.transform, colours=colours(model))[0][0][None]
    if model.input_size is None:
        raise UsageError("The model does not say how large its inputs are; give --size, or --data for a sample.")
    return torch.zeros(1, *model.input_size)


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
    dtype: Dtype = "auto",
    size: Size = None,
    mean: Colours = None,
    std: Colours = None,
) -> Said:
    """Say what extracting would write, layer by layer, before anything is written."""
    from probes.plan import fit
    from repanalysis import extraction

    run = extraction.prepare(
        model, data, weights=weights, split=split, limit=limit, layers=layers, pool=pool or "mean", ops=ops,
        prefix_tokens=prefix_tokens, dtype=dtype, size=size, mean=_numbers(mean), std=_numbers(std), seed=settings.seed,
    )  # fmt: skip
    planned = extraction.plan(run)
    if budget is not None:
        planned = fit(planned, _bytes(budget))
    return _planned(planned, 1 if run.data.labels is None else len(set(run.data.labels.tolist())))


def _planned(planned: Any, classes: int) -> Said:
    """A plan as a table, with what it costs to analyse, and the command's pools."""
    from probes.plan import readable
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
    text = f"{_columns(header, rows)}{_left_out(planned.left_out)}\n\nTotal: {readable(planned.bytes)} for {planned.n} samples."
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
    if not found or number <= 0:
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
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a file whose writing was stopped.")] = False,
    overwrite: Overwrite = False,
) -> Said:
    """Run a model over data and write what its layers gave out; or, with --metrics, the metrics alone."""
    from probes.writer import refuse_existing
    from repanalysis import extraction

    table = metrics is not None or output.suffix in (".csv", ".parquet")
    if table:
        _free("table format", output, _TABLES, overwrite=overwrite)
    elif not resume and not output.is_dir():
        refuse_existing(output, overwrite=overwrite)
    run = extraction.prepare(
        model, data, weights=weights, split=split, limit=limit, layers=layers, pool=pool or "mean", ops=ops,
        prefix_tokens=prefix_tokens, dtype=dtype, size=size, mean=_numbers(mean), std=_numbers(std), batch_size=batch_size,
        workers=workers, device=device, precision=precision, channels_last=channels_last, seed=settings.seed,
    )  # fmt: skip
    if table:
        options: dict[str, Any] = {
            "name": output.stem,
            "state_budget": int(state_budget * 2**30),
            "progress": settings.progress,
        }
        return _tabled(extraction.stream(run, metrics, **options), output)
    options = {"compression": compression, "overwrite": overwrite, "resume": resume, "progress": settings.progress}
    return _written(extraction.write(run, output, **options), output)


def _written(store: Store | None, output: Path) -> Said:
    """What a recording has written."""
    if store is None:
        return Said(f"{output}: this process has nothing to do; there are fewer batches than processes.", {"n": 0})
    size_mb = store.path.stat().st_size / 2**20
    text = f"{store.path}: {len(store)} samples, {len(store.layers)} layers, {size_mb:.1f} MB{_left_out(store.left_out)}"
    for layer, count in store.non_finite.items():
        text += f"\n{layer} holds {count} NaN or infinite values; --dtype float32 or --precision float32 may help."
    facts = {"path": str(store.path), "n": len(store), "layers": store.layers, "left_out": store.left_out}
    return Said(text, facts | {"non_finite": store.non_finite})


def _tabled(table: Table, output: Path | None) -> Said:
    """A table, written if wanted."""
    if output is not None:
        table.save(output)
    written = "" if output is None else f"\n\n{output}: {len(table)} values. Next: repanalysis plot {output} -o depth.svg"
    return Said(_pretty(table) + written, _data(table))


@verb
def analyze(
    settings: Settings,
    sources: Annotated[list[Path], typer.Argument(help="Activations files; a folder is read as shards of one run.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = None,
    metrics: Metrics = None,
    layers: Layers = None,
    split: Annotated[str | None, typer.Option(help="Analyze this split alone.")] = None,
    by_split: Annotated[bool, typer.Option("--by-split", help="Analyze every split by itself.")] = False,
    classes: Annotated[str | None, typer.Option(help="Classes to look at, by label or name: cat,dog,7")] = None,
    superclasses: Annotated[Path | None, typer.Option(help='TOML file of classes to join: animal = ["cat", "dog"]')] = None,
    groups: Annotated[int, typer.Option(min=0, help="Groups of the jackknife; 0 for no standard errors.")] = 10,
    null: Annotated[int, typer.Option(min=0, help="Permutations of the labels: what chance alone would give.")] = 0,
    head: Annotated[
        str | None, typer.Option(help="Weights of the last linear layer, FILE:NAME, such as model.safetensors:fc")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that analyze layers.")] = 0,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Overview to draw: .svg, .pdf or .png.")] = None,
    dask: Annotated[str | None, typer.Option(help="Address of a dask scheduler, such as tcp://10.0.0.1:8786")] = None,
    partial: Partial = False,
    state_budget: Budget = 2.0,
    overwrite: Overwrite = False,
) -> Said:
    """Compute metrics of every layer, with standard errors; with --null, what random labels give."""
    from repanalysis.engine import analyze as analyze_source
    from repanalysis.table import Table
    from repanalysis.weights import load_head

    _free("table format", output, _TABLES, overwrite=overwrite)
    _free("figure format", figure, _FIGURES, overwrite=overwrite)
    options: dict[str, Any] = {
        "layers": layers, "partial": partial, "progress": settings.progress, "state_budget": int(state_budget * 2**30),
        "split": split, "by_split": by_split, "classes": classes.split(",") if classes else None,
        "superclasses": _superclasses(superclasses), "groups": groups, "null": null, "seed": settings.seed, "workers": workers,
        "head": load_head(head) if head else None,
    }  # fmt: skip
    with _dask(dask) as executor:
        tables = [analyze_source(source, metrics, executor=executor, **options) for source in sources]
    table = Table.concat(tables)
    if figure is not None:
        _saved(_plots().overview(table), figure)
    return _tabled(table, output)


def _free(what: str, path: Path | None, endings: tuple[str, ...], *, overwrite: bool) -> None:
    """Refuse a file that is there already, or is of no kind that can be written."""
    from probes.writer import refuse_existing

    if path is not None:
        one_of(what, refuse_existing(path, overwrite=overwrite).suffix, endings)


def _plots() -> Any:
    """The plots, drawn to files and not to a screen."""
    import matplotlib

    matplotlib.use("agg")
    from repanalysis import plots

    return plots


def _saved(figure: Any, path: Path) -> None:
    """Write a figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _superclasses(path: Path | None) -> dict[str, list[int | str]] | None:
    """Names of superclasses and the classes that they join, from a TOML file."""
    if path is None:
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML file: {error}.") from None
    if not content or not all(isinstance(value, list) for value in content.values()):
        raise UsageError(f'{path} should hold a list of classes per superclass, such as animal = ["cat", "dog"].')
    return content


@contextmanager
def _dask(address: str | None) -> Iterator[Any]:
    """An executor on a dask cluster, or None."""
    if address is None:
        yield None
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise UsageError("--dask needs dask.distributed: pip install 'repanalysis[dask]'.") from None
    try:
        client: Any = Client(address, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UsageError(f"There is no dask scheduler at {address}: {error}.") from None
    with client:
        yield client.get_executor()


@verb
def train(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and log.")],
    split: Split = None,
    test: Annotated[str | None, typer.Option(help="Data to score after every epoch; default --data.")] = None,
    test_split: Annotated[str | None, typer.Option(help="Split of the data to score.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 300,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 128,
    rate: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.01,
    schedule: Annotated[str, typer.Option(help="steps: a tenth after every 70 of 300 epochs; cosine or constant.")] = "steps",
    loss: Annotated[str, typer.Option(help="cross-entropy, or hinge for one score and two classes.")] = "cross-entropy",
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    decay: Annotated[float, typer.Option(help="Weight decay.")] = 1e-4,
    noise: Annotated[float, typer.Option(help="Norm of white noise that is added to the images.")] = 0.0,
    until_fitted: Annotated[bool, typer.Option("--until-fitted", help="Stop once the training images are fitted.")] = False,
    augment: Annotated[bool | None, typer.Option(help="Random flips and crops; default for images in colour.")] = None,
    limit: Limit = None,
    weights: Weights = "random",
    save_every: Annotated[int | None, typer.Option(min=1, help="Keep every so many epochs; default ten in all.")] = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a folder whose training was stopped.")] = False,
) -> Said:
    """Train a network; its checkpoints go through extract and analyze."""
    from repanalysis.training import Recipe
    from repanalysis.training import train as train_network

    recipe = Recipe(
        epochs, batch_size, rate, schedule, augment, settings.seed, loss, momentum, decay, noise, until_fitted=until_fitted
    )
    log = train_network(
        model, data, output, recipe, split=split, test=test, test_split=test_split, limit=limit, weights=weights,
        device=device, save_every=save_every, resume=resume, progress=settings.progress,
    )  # fmt: skip
    shown = log if len(log) <= _MOST_EPOCHS else log.iloc[[0, *range(len(log) - _MOST_EPOCHS + 1, len(log))]]
    text = f"{shown.to_string(index=False, float_format='{:.4g}'.format)}\n\n{output}: {len(log)} epochs."
    return Said(text, {"folder": str(output), "log": log.to_dict("records")})


@verb
def stability(
    settings: Settings,
    models: Annotated[
        list[str], typer.Argument(help="One or more of timm:NAME, torchvision:NAME, scattering:J=3 or py:module:factory")
    ],
    data: DataSpec,
    perturb: Annotated[
        list[str],
        typer.Option(
            "--perturb", "-p", help="diffeo:delta=1,c=3, noise:match=diffeo, noise:sigma=0.1, shift:1..8, rotation:5."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")],
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Figure to draw: .svg, .pdf or .png.")] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights file, one per model; or several checkpoints of one model.")
    ] = None,
    init: Annotated[int, typer.Option(min=0, help="Untrained networks to average over, beside the model.")] = 0,
    shuffled: Annotated[int, typer.Option(min=0, help="Channel-shuffled copies to average over, beside the model.")] = 0,
    split: Split = None,
    limit: Annotated[int, typer.Option(min=0, help="Random subset of so many images; 0 for all.")] = 500,
    layers: Layers = None,
    ops: Ops = False,
    statistic: Annotated[str, typer.Option(help="mean or median, over images.")] = "mean",
    self_pairs: Annotated[bool, typer.Option(help="Count an image's distance to itself among all pairs.")] = True,
    batch_norm: Annotated[str, typer.Option(help="What batch norms use: running or batch statistics.")] = "running",
    size: Size = None,
    mean: Colours = None,
    std: Colours = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step, before they are perturbed.")] = None,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="float32; bfloat16 or float16 for automatic mixed precision.")] = "float32",
    overwrite: Overwrite = False,
) -> Said:
    """Say how far perturbations of the images move what each layer makes of them."""
    from repanalysis.stability_runs import stability_runs

    _free("table format", output, _TABLES, overwrite=overwrite)
    _free("figure format", figure, _FIGURES, overwrite=overwrite)
    table = stability_runs(
        models, data, perturb, weights=weights, init=init, shuffled=shuffled, split=split, limit=limit or None, layers=layers,
        ops=ops, statistic=statistic, self_pairs=self_pairs, size=size, mean=_numbers(mean), std=_numbers(std),  # type: ignore[arg-type]
        batch_norm=batch_norm, batch_size=batch_size, device=device, precision=precision,  # type: ignore[arg-type]
        seed=settings.seed, progress=settings.progress,
    )  # fmt: skip
    table.save(output)
    if figure is not None:
        _saved(_plots().stability(table), figure)
    wide = _sensitivities(table)
    return Said(f"{wide}\n\n{output}: {len(table)} values. Next: repanalysis plot {output} -o stability.svg", _data(table))


def _sensitivities(table: Table) -> str:
    """First, middle and last layers' sensitivities, a column per perturbation and a block per run."""
    lines = []
    for run, rows in table.frame[table.frame["variant"] == ""].groupby("run", sort=False):
        layers = list(dict.fromkeys(rows.sort_values("order")["layer"]))
        shown = layers if len(layers) <= _MOST_EPOCHS else [*layers[:4], "...", *layers[-8:]]
        keys = [
            (metric, label, strength)
            for metric, label, strength in dict.fromkeys(map(tuple, rows[["metric", "perturbation", "strength"]].to_numpy()))
            if metric != "squared_distance"
        ][: _MOST_COLUMNS // 2]
        value = {
            key: dict(zip(part["layer"], part["value"], strict=True))
            for key, part in rows.groupby(["metric", "perturbation", "strength"])
        }
        head = [f"{'R ' if metric == 'relative_stability' else ''}{label} {strength:.3g}" for metric, label, strength in keys]
        body = [[layer, *("" if layer == "..." else _number(value[key][layer]) for key in keys)] for layer in shown]
        lines.append(f"{run}, n = {rows['n'].iloc[0]}\n{_columns(['layer', *head], body)}")
    return "\n\n".join([*lines, _notes(table.frame)]).rstrip()


@verb
def filters(
    settings: Settings,
    train: Annotated[Path, typer.Argument(help="Activations to fit heads on; or of both splits, train and test.")],
    test: Annotated[Path | None, typer.Argument(help="Activations of other samples, to measure with.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = Path("filters.csv"),
    layers: Layers = None,
    theta: Annotated[float, typer.Option(help="Share of the largest entry above which a field counts.")] = 0.3,
    order: Annotated[str, typer.Option(help="In which clusters are sought: label or degree.")] = "label",
    gauge: Annotated[str, typer.Option(help="center, or none for weights as they are.")] = "center",
    solver: Annotated[str, typer.Option(help="lbfgs, or sgd for the papers' protocol.")] = "lbfgs",
    group: Annotated[
        list[str] | None, typer.Option(help="Channels that count as one filter, PATTERN=COUNT, such as '*attn*=3' heads.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamplings for standard errors.")] = 20,
    heads: Annotated[Path | None, typer.Option(help="Safetensors file to write the heads to.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Curves to draw: .svg, .pdf or .png.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Sheet of the last layer's filters: .svg, .pdf or .png.")] = None,
    filter: Annotated[list[int] | None, typer.Option(help="Filter to put on the sheet; repeat it.")] = None,
    data: Annotated[str | None, typer.Option(help="The test images, to show those that drive the filters.")] = None,
    split: Split = None,
    overwrite: Overwrite = False,
) -> Said:
    """Fit a head to every layer, and say what its single filters know of the labels."""
    from probes.writer import refuse_existing
    from repanalysis.filters import filters as look

    _free("table format", output, _TABLES, overwrite=overwrite)
    for path in (figure, sheet):
        _free("figure format", path, _FIGURES, overwrite=overwrite)
    table, found = look(
        train, test, layers=layers, theta=theta, order=order, gauge=gauge, solver=solver, groups=_groups(group),
        bootstrap=bootstrap, seed=settings.seed, run=train.stem, progress=settings.progress,
    )  # fmt: skip
    table.save(output)
    if heads is not None:
        from repanalysis.weights import save_heads

        save_heads(refuse_existing(heads, overwrite=overwrite), {layer: one.weight for layer, one in found.items()})
    if figure is not None:
        _saved(_plots().overview(table.select(variant=""), metrics=_FILTER_CURVES), figure)
    if sheet is not None:
        _sheet(found, test or train, sheet, filter, data, split, {"theta": theta, "gauge": gauge})
    wide = table.select(variant="", metric=_FILTER_CURVES).frame
    values = {layer: dict(zip(part["metric"], part["value"], strict=True)) for layer, part in wide.groupby("layer", sort=False)}
    rows = [[layer, *(_number(row.get(name)) for name in _FILTER_CURVES)] for layer, row in values.items()]
    text = _columns(["layer", *_FILTER_CURVES], rows) + "\n" + _notes(table.frame)
    return Said(
        f"{text.rstrip()}\n\n{output}: {len(table)} values. Next: repanalysis plot {output} -o filters.svg", _data(table)
    )


_FILTER_CURVES = ["layer_accuracy", "clusters_per_filter", "cluster_size", "noise_per_filter", "snr_pair", "snr_field_unit"]


def _groups(given: list[str] | None) -> dict[str, int]:
    """`"*attn*=3"` -> {"*attn*": 3}."""
    found = {}
    for text in given or ():
        pattern, equals, count = text.rpartition("=")
        if not equals or not count.isdigit() or int(count) < 1:
            raise UsageError(f"{text!r} is no PATTERN=COUNT, such as '*attn*=3'.")
        found[pattern] = int(count)
    return found


def _sheet(  # one call, above
    found: dict[str, Any], source: Path, path: Path, chosen: list[int] | None, data: str | None, split: str | None, options: Any
) -> None:
    """Draw the last layer's filters, with the images that drive them."""
    import probes
    from repanalysis.filters import driving
    from repanalysis.plots.filter_sheets import telling

    layer, one = list(found.items())[-1]
    shown = chosen if chosen is not None else telling(one.found, 6)
    with probes.open(source) as opened:
        names = opened.class_names
        told = None if names is None else [names[label] for label in one.labels]
        images = None
        if data is not None:
            from repanalysis.data import load_data

            samples = load_data(data, split=split)
            best = {one: samples.pick(driving(opened, layer, one, 5)) for one in shown}
            images = {one: [data[at][0].numpy().transpose(1, 2, 0).squeeze() for at in range(5)] for one, data in best.items()}
    matrices = (one.found, one.means, one.weight)
    _saved(_plots().filter_sheet(*matrices, chosen=shown, names=told, images=images, title=layer, **options), path)


@verb
def prune(
    settings: Settings,
    train: Annotated[Path, typer.Argument(help="Activations to fit heads and choose masks on; or of both splits.")],
    test: Annotated[Path | None, typer.Argument(help="Activations of other samples, to measure with.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = Path("prune.csv"),
    layer: Annotated[str | None, typer.Option(help="The layer before the head; default the last.")] = None,
    theta: Annotated[list[float] | None, typer.Option(help="Threshold; repeat it. Default 0.1 0.3 0.5 0.7 0.9.")] = None,
    controls: Annotated[int, typer.Option(min=0, help="Random masks of equal size, to average over.")] = 3,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Figure to draw: .svg, .pdf or .png.")] = None,
    overwrite: Overwrite = False,
) -> Said:
    """Keep the weights of a linear head that serve its filters' clusters, and say what accuracy is left."""
    from repanalysis.filters import held
    from repanalysis.pruning import prune_head

    _free("table format", output, _TABLES, overwrite=overwrite)
    _free("figure format", figure, _FIGURES, overwrite=overwrite)
    name, first, last, classes = held(train, test, layer=layer)
    options: dict[str, Any] = {"controls": controls, "seed": settings.seed, "run": name, "progress": settings.progress}
    table = prune_head(first, last, thetas=theta or (0.1, 0.3, 0.5, 0.7, 0.9), classes=classes, **options)
    table.save(output)
    if figure is not None:
        _saved(_plots().dilution(table).figure, figure)
    frame = table.select(metric="head_accuracy").frame
    rows = [[r.variant, f"{r.strength:.3f}", f"{r.value:.4f}", r.note] for r in frame.itertuples()]
    return Said(f"{_columns(['weights', 'dilution', 'accuracy', ''], rows)}\n\n{output}: {len(table)} values.", _data(table))


@verb
def filter_energy(
    settings: Settings,
    model: ModelSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")],
    weights: Annotated[list[str] | None, typer.Option(help="Weights file; repeat it for several checkpoints.")] = None,
    overwrite: Overwrite = False,
) -> Said:
    """Say how smooth the filters are: their energy on the eigenspaces of the grid's Laplacian, layer by layer."""
    import torch

    from repanalysis.filter_energy import filter_energy as energy_of
    from repanalysis.models import load_model
    from repanalysis.table import Table

    _free("table format", output, _TABLES, overwrite=overwrite)
    tables = []
    files: list[str | None] = list(weights) if weights else [None]
    for file in files:
        torch.manual_seed(settings.seed)
        built = load_model(model, weights=file)
        tables.append(energy_of(built.module, run=output.stem if file is None else Path(file).stem, name=built.card["model"]))
    table = Table.concat(tables)
    table.save(output)
    shown = table.select(metric="filter_homogeneity")
    then = f"repanalysis plot {output} -m filter_homogeneity -o energy.svg"
    return Said(f"{_pretty(shown)}\n\n{output}: {len(table)} values. Next: {then}", _data(table))


@verb
def study(
    settings: Settings,
    models: Annotated[list[str], typer.Argument(help="Networks to train, such as small:lenet small:vgg_bn small:mlp.")],
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for runs, runs.csv, stability.csv and errors.svg.")],
    noise: Annotated[
        list[float] | None, typer.Option(help="Norm of white noise in training; repeat it. Default 0 1 10.")
    ] = None,
    split: Split = "train",
    test: Annotated[str | None, typer.Option(help="Data to score; default --data.")] = None,
    test_split: Annotated[str | None, typer.Option(help="Split of the data to score.")] = "test",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 10,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 128,
    rate: Annotated[float, typer.Option(help="Learning rate at the start, which falls to 0 as a cosine.")] = 0.05,
    limit: Limit = None,
    diffeo: Annotated[str, typer.Option(help="The deformation.")] = "diffeo:delta=1,c=3",
    images: Annotated[int, typer.Option(min=2, help="Test images to measure stability with.")] = 500,
    device: Device = None,
) -> Said:
    """Train networks with noise, and set their test errors against their stability; the same command goes on."""
    from repanalysis.noise_study import noise_study
    from repanalysis.training import Recipe

    recipe = Recipe(epochs, batch_size, rate, "cosine", seed=settings.seed)
    runs = noise_study(
        models, data, output, noises=noise or (0.0, 1.0, 10.0), recipe=recipe,
        split=split, test=test, test_split=test_split, train_limit=limit, diffeo=diffeo, images=images, device=device,
        progress=settings.progress,
    )  # fmt: skip
    text = runs.to_string(index=False, float_format="{:.3g}".format)
    if len(runs) > 2:
        _saved(_plots().errors(runs), output / "errors.svg")
    return Said(f"{text}\n\n{output}: {len(runs)} runs.", {"runs": runs.to_dict("records")})


@verb
def plot(
    settings: Settings,
    tables: Annotated[list[Path], typer.Argument(help="Tables that analyze wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Figure to write: .svg, .pdf or .png.")],
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help="Metric to show; repeat it. Default all.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of a single metric, such as relative.")] = None,
    x: Annotated[str, typer.Option("--x", help="auto, layer or depth; strength for sensitivities")] = "auto",
    heatmap: Annotated[bool, typer.Option("--heatmap", help="One metric over layers and runs, such as epochs.")] = False,
    overwrite: Overwrite = False,
) -> Said:
    """Draw metrics against depth; with --heatmap, one metric over depth and runs."""
    from repanalysis.table import Table

    _free("figure format", output, _FIGURES, overwrite=overwrite)
    one_of("x", x, ("auto", "layer", "depth", "strength"))
    if variant is not None and len(metric or ()) != 1:
        raise UsageError("--variant belongs to one metric; give --metric once.")
    table, plots = Table.concat([Table.load(path) for path in tables]), _plots()
    if not metric and not heatmap and "sensitivity" in set(table.frame["metric"]):
        _saved(plots.stability(table, x="strength" if x == "strength" else "depth"), output)
        return Said(f"{output}: {table.frame['perturbation'].nunique() - 1} perturbations.", {"path": str(output)})
    if heatmap:
        if len(metric or ()) != 1:
            raise UsageError("--heatmap shows one metric; give --metric once.")
        figure = plots.checkpoints(table, metric=(metric or [""])[0], variant=variant or "").figure
    elif metric and len(metric) == 1:
        figure = plots.depth(table, metric=metric[0], variant=variant or "", x=x).figure
    else:
        figure = plots.overview(table, metrics=metric, x=x)
    _saved(figure, output)
    return Said(f"{output}: {table.frame['metric'].nunique() if not metric else len(metric)} metrics.", {"path": str(output)})


@verb
def compare(
    settings: Settings,
    a: Annotated[Path, typer.Argument(help="An activations file, or a folder of shards.")],
    b: Annotated[
        Path | None, typer.Argument(help="Another one of the same samples; default: the layers of a among themselves.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write: .csv")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Heat map to write: .svg, .pdf or .png.")] = None,
    method: Annotated[str, typer.Option(help="cka, cka_biased, cka_rbf, cca, svcca, procrustes or rsa.")] = "cka",
    samples: Annotated[int, typer.Option(min=4, help="Samples to look at, drawn by id.")] = 2000,
    layers: Layers = None,
    overwrite: Overwrite = False,
) -> Said:
    """Say how alike layers are, within one file or between two of the same samples."""
    from repanalysis.similarity import compare as compare_layers

    _free("table format", output, (".csv",), overwrite=overwrite)
    _free("figure format", figure, _FIGURES, overwrite=overwrite)
    found = compare_layers(a, b, method, layers=layers, samples=samples, progress=settings.progress)
    if output is not None:
        found.to_csv(output)
    if figure is not None:
        _saved(_plots().similarity(found).figure, figure)
    matrix = found.matrix()
    rows = [[name, *(_number(value) for value in line)] for name, line in zip(matrix.index, matrix.to_numpy(), strict=True)]
    shown = rows if len(matrix.columns) <= _MOST_COLUMNS else []
    text = _columns([method, *matrix.columns], shown) if shown else f"{len(found.frame)} pairs of layers"
    written = "\n".join(f"{path}: {len(found.frame)} pairs." for path in (output, figure) if path is not None)
    return Said("\n\n".join(filter(None, [text, written])), {"rows": found.frame.to_dict("records")})


@verb
def merge(
    settings: Settings,
    source: Annotated[Path, typer.Argument(help="Folder of shards.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, such as acts.h5.")],
    compression: Compression = "none",
    overwrite: Overwrite = False,
) -> Said:
    """Write the shards of one run to one file."""
    import probes

    with probes.open(source) as shards:
        options: dict[str, Any] = {"compression": compression, "overwrite": overwrite, "progress": settings.progress}
        return _written(probes.merge(shards, output, **options), output)


@verb
def info(
    settings: Settings,
    path: Annotated[Path, typer.Argument(help="An activations file, or a folder of shards.")],
) -> Said:
    """Say where activations come from, and what is in them."""
    import probes

    with probes.open(path, partial=True) as source:
        complete = all(store.complete for store in getattr(source, "stores", [source]) if isinstance(store, probes.Store))
        state = "complete" if complete else f"INCOMPLETE: writing stopped after {len(source)} samples"
        hidden = ("format", "complete", "n_committed", "left_out", "non_finite")
        facts = {key: value for key, value in source.attrs.items() if key not in hidden}
        labels = source.labels
        facts |= {"samples": len(source), "classes": "none" if labels is None else len(set(labels.tolist())), "state": state}
        if source.non_finite:
            facts["non_finite"] = ", ".join(f"{layer}: {count}" for layer, count in source.non_finite.items())
        found = [asdict(layer) for layer in source.info.values()]
        left_out = source.left_out
    rows = [
        [i["order"], i["name"], i["module_type"], "x".join(map(str, i["source_shape"])), i["pool"], f"{i['depth']:.3f}"]
        for i in found
    ]
    lines = "\n".join(f"{key:16} {value}" for key, value in facts.items())
    text = f"{lines}\n\n{_columns(['order', 'layer', 'type', 'shape', 'pool', 'depth'], rows)}{_left_out(left_out)}"
    return Said(text, facts | {"complete": complete, "layers": found, "left_out": left_out})


@verb
def verify(
    settings: Settings,
    model: ModelSpec,
    path: Annotated[Path, typer.Argument(help="An activations file, or a folder of shards.")],
    weights: Weights = None,
    data: Annotated[str | None, typer.Option(help="The data, should they lie elsewhere than the file says.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many samples to run again.")] = 32,
    device: Device = None,
    workers: Workers = 0,
) -> Said:
    """Run the model again on random samples of a file, and compare what its layers give out."""
    from repanalysis import extraction

    found = extraction.verify(
        model, path, weights=weights, data=data, samples=samples, device=device, workers=workers, seed=settings.seed
    )
    rows = [[one.layer, f"{one.largest:.2g}", f"{one.scale:.4g}", "equal" if one.ok else "DIFFERENT"] for one in found]
    text = _columns(["layer", "largest difference", "largest value", ""], rows)
    if odd := [one.layer for one in found if not one.ok]:
        raise DataError(f"{path} is not what {model} gives out now: {len(odd)} of {len(found)} layers differ ({odd[0]} first).")
    data_out = [asdict(one) | {"ok": one.ok} for one in found]
    return Said(f"{text}\n\n{path}: {len(found)} layers come out again, on {samples} random samples at most.", data_out)


@verb
def doctor(
    settings: Settings,
    path: Annotated[Path, typer.Argument(help="An activations file, or a folder of shards.")],
) -> Said:
    """Read everything that a file holds; say what is whole, what is not, and what to do."""
    from probes.check import doctor as examine

    found = examine(path, progress=settings.progress)
    lines = [
        f"{one.state.upper():10} {one.path}: {one.what}." + (f"\n{'':10} {one.advice}" if one.advice else "") for one in found
    ]
    said = Said("\n".join(lines), [asdict(one) for one in found])
    if all(one.ok for one in found):
        return said
    if not settings.quiet:
        typer.echo(json.dumps(_plain(said.data), ensure_ascii=False, indent=1) if settings.json else said.text)
    odd = [one for one in found if not one.ok]
    kind = IncompleteError if all(one.state in ("resumable", "empty", "busy", "missing") for one in odd) else DataError
    raise kind(f"{len(odd)} of {len(found)} files need attention.")


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
