"""Compares what `probes.capture` records of an architecture with `oracle`: problems, and the row of docs/architectures.md."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import probes
from tests.conformance import oracle

DEFAULT = "B BC BTC BCHW BCTHW"


@dataclass(frozen=True)
class Architecture:
    """A network, its inputs, and what is stated about the axes of its outputs.

    Attributes
    ----------
    build : callable
        Size of the input -> network. Networks of other sizes differ only in the number of positions.
    sample : callable
        (seed, size) -> the input of one sample: a tensor, or a dict or tuple of tensors.
    sizes : (int, int)
        The size that is recorded, and another size that the network can be built for (the same if there is none).
    axes : mapping of str to str
        Patterns of names, separated by blanks -> words of letters, separated by blanks; `oracle` has the alphabet. The first
        pattern that matches and has a word with as many letters as the output has axes is used.
    prefix : int
        Number of leading tokens that are not positions.
    batches : tuple of int
        Numbers of samples in the two batches.
    later : int
        Size of the second batch's input, if different.
    padding : str
        Name of the input that is 1 at tokens and 0 at padding, which means omit.
    collate : callable
        Samples -> batch.
    fast : bool
        Whether it is in the default run.
    options : mapping
        Options of `capture`.
    note : str
        A further note on the page.
    """

    build: Callable[[int], nn.Module]
    sample: Callable[[int, int], Any]
    sizes: tuple[int, int] = (64, 32)
    axes: Mapping[str, str] = field(default_factory=dict)
    prefix: int = 0
    batches: tuple[int, int] = (3, 2)
    later: int = 0
    padding: str = ""
    collate: Callable[[list[Any]], Any] | None = None
    fast: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def batch(self, seeds: Iterable[int], size: int) -> Any:
        """The inputs of the samples of these seeds."""
        samples = [self.sample(seed, size) for seed in seeds]
        return (self.collate or stacked)(samples)

    def stated(self, name: str, ndim: int) -> str:
        """The word for an output; empty if nothing is stated."""
        for patterns, words in (*self.axes.items(), ("*", DEFAULT)):
            if any(fnmatchcase(name, pattern) for pattern in patterns.split()):
                for word in words.split():
                    if len(word.strip("!").replace("+", "")) == ndim:
                        return word
        return ""


def stacked(samples: list[Any]) -> Any:
    """Tensors, or dicts and tuples of tensors, in one batch."""
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: stacked([sample[key] for sample in samples]) for key in first}
    if isinstance(first, tuple):
        return tuple(stacked(list(part)) for part in zip(*samples, strict=True))
    return torch.stack(samples)


def run(model: nn.Module, item: Any) -> Any:
    """Call a network on a batch as documented for `capture`."""
    if isinstance(item, Mapping):
        return model(**item)
    return model(*item) if isinstance(item, tuple) else model(item)


def seeded(architecture: Architecture, size: int) -> nn.Module:
    """The network, with noise on initially constant parameters (biases, gains, layer scales) and batch norm statistics."""
    torch.manual_seed(0)
    model = architecture.build(size).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or not parameter.any():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        if norms := [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]:
            for norm in norms:
                norm.train().momentum = 1.0  # the statistics of the next batch
            run(model, architecture.batch([-1, -2, -3], size))
    return model.eval()


@dataclass
class Report:
    """Result of a comparison: words of the compared layers, reasons for omitted layers, and problems."""

    compared: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def compare(architecture: Architecture, pool: str = "mean") -> Report:
    """For every module call: are recorded rows correct, and do omitted outputs have no row per sample?"""
    size = architecture.sizes[0]
    model, (n, n_more) = seeded(architecture, size), architecture.batches
    items = [architecture.batch(range(n), size), architecture.batch(range(n, n + n_more), architecture.later or size)]
    (first, modules), (more, _) = (oracle.recorded(model, item, run) for item in items)
    report = Report()
    words = confirmed(architecture, model, first, more, modules, report)
    if pool == "cls":
        unpooled = {name for name, word in words.items() if "+" not in word and first[name].ndim > 2}
        report.skipped |= dict.fromkeys(unpooled, "without a class token")
        words = {name: word for name, word in words.items() if name not in unpooled}

    captured_rows, skipped, error = captured(model, items, pool, architecture.options)
    if error:
        report.problems["capture"] = error
        return report
    for name, word in words.items():
        outputs = [
            oracle.unpadded(part[name], word, item, architecture.padding)
            for part, item in zip((first, more), items, strict=True)
        ]
        expected = np.concatenate([oracle.pooled(x, word, architecture.prefix, pool) for x in outputs])
        if name not in captured_rows:
            message = f"left out: {skipped.get(name, 'without a reason')}"
        else:
            message = difference(captured_rows[name], expected, float(np.nanmax(np.abs(outputs[0]))))
        if message:
            report.problems[name] = f"{word} {first[name].shape}: {message}"
        else:
            report.compared[name] = word
    for name in captured_rows.keys() - words.keys():
        report.problems[name] = (
            f"kept as {captured_rows[name].shape}, but is {report.skipped.get(name, 'no output of a module call')}"
        )
    return report


def confirmed(
    architecture: Architecture,
    model: nn.Module,
    first: oracle.Outputs,
    more: oracle.Outputs,
    modules: Mapping[str, nn.Module],
    report: Report,
) -> dict[str, str]:
    """The words of all outputs with a row per sample that no measurement contradicts; the others are added to the report."""
    (size, other_size), (n, n_more) = architecture.sizes, architecture.batches
    exchanged, _ = oracle.recorded(model, architecture.batch([100, *range(1, n)], size), run)
    resized: oracle.Outputs = {}
    if other_size != size:
        resized, _ = oracle.recorded(seeded(architecture, other_size), architecture.batch(range(n), other_size), run)
    words: dict[str, str] = {}
    for name, x in first.items():
        if isinstance(x, str):
            report.skipped[name] = x
            continue
        y, z, r = (array(outputs.get(name)) for outputs in (more, exchanged, resized))
        word, samples = architecture.stated(name, x.ndim), oracle.rows_by_samples(x, z, y, n, n_more)
        if not samples:
            report.skipped[name] = why_no_rows(x, z, y, n, n_more)
        elif wrong := contradiction(word, samples, x, r, modules[name]):
            report.problems[name] = f"stated {word or 'nothing'} of {x.shape}, but {wrong}"
        else:
            words[name] = word
    return words


def array(x: np.ndarray | str | None) -> np.ndarray | None:
    return x if isinstance(x, np.ndarray) else None


def why_no_rows(x: np.ndarray, z: np.ndarray | None, y: np.ndarray | None, n: int, n_more: int) -> str:
    """Why an array of floats has no row per sample."""
    if z is None or y is None or x.shape != z.shape or x.ndim != y.ndim:
        return "of a shape that the samples' values decide"
    folded = [a / n for a, b in zip(x.shape, y.shape, strict=True) if a * n_more == b * n]
    if np.array_equal(x, z, equal_nan=True) and not folded:
        return "the same for any samples"
    if folded and folded[0] > 1:
        return f"with {folded[0]:g} rows a sample"
    return "of values that mix samples" if folded else "of shape without samples"


def contradiction(word: str, samples: list[int], x: np.ndarray, r: np.ndarray | None, module: nn.Module) -> str:
    """The measurement that contradicts a statement; empty if none does."""
    letters = word.strip("!").replace("+", "")
    if len(letters) != x.ndim or letters.count("B") != 1:
        return f"it has {x.ndim} axes"
    if letters.index("B") not in samples:
        return f"samples are on axis {samples}"
    if r is not None and r.ndim == x.ndim:
        grown = [axis for axis in range(x.ndim) if x.shape[axis] != r.shape[axis]]
        if wrong := [axis for axis in grown if letters[axis] not in oracle.GROWING]:
            return f"axis {wrong[0]} grows with the size of the input: {r.shape}"
        fixed = [axis for axis in range(x.ndim) if axis not in grown and letters[axis] in oracle.PLACES and x.shape[axis] > 1]
        if fixed and not word.endswith("!"):
            return f"axis {fixed[0]} does not grow with the size of the input: {r.shape}"
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and "C" in letters and type(module).__name__ in CHANNELS_OF_WEIGHT:
        channels = weight.shape[1 if type(module).__name__.startswith("ConvTranspose") else 0]
        if x.shape[letters.index("C")] != channels:
            return f"{type(module).__name__} gives {channels} channels"
    return ""


CHANNELS_OF_WEIGHT = (
    "Linear",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LayerNorm",
    "RMSNorm",
)


def captured(
    model: nn.Module, items: list[Any], pool: str, options: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Rows of every module call, the layers that were left out, and the error if there was one."""
    loader = [item if isinstance(item, Mapping) else (item, torch.zeros(rows_of(item), dtype=torch.int64)) for item in items]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probes.LeftOutWarning)
        try:
            batches = list(probes.capture(model, loader, layers="*", pool=pool, **options))
        except Exception as error:  # any error is reported
            return {}, {}, f"{type(error).__name__}: {error}"
    names = batches[-1].layers.keys()
    return (
        {name: np.concatenate([batch.layers[name] for batch in batches]) for name in names},
        dict(batches[-1].skipped),
        "",
    )


def rows_of(item: Any) -> int:
    if isinstance(item, Tensor):
        return len(item)
    inner = item if isinstance(item, list) and item[0].ndim == 3 else None
    return len(inner) if inner is not None else rows_of(next(iter(item)))


def difference(recorded: np.ndarray, expected: np.ndarray, scale: float) -> str:
    """How rows differ from the expected rows; empty if only by rounding at that scale."""
    if recorded.shape != expected.shape:
        return f"kept {recorded.shape}, right is {expected.shape}"
    off = np.abs(recorded - expected).max(initial=0.0)
    return "" if off <= 1e-5 * scale else f"kept rows are off by {off:.2g} of {scale:.2g}"


def summary(report: Report) -> tuple[str, str]:
    """The compared layers by their axes, and the others by reason, most frequent first."""
    words = ", ".join(f"{count} `{word}`" for word, count in Counter(report.compared.values()).most_common())
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(report.skipped.values()).most_common())
    return words, reasons or "none"
