"""One pass over activations, every metric of every layer: batches -> states -> values -> `Table`.

What a metric `needs` is computed once per layer, however many metrics share it. A file is read layer by layer, so that
the states of one layer are in memory at a time; a stream of batches, which comes only once, fills the states of all its
layers together. Both take the same path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

import probes
from probes import Batch, DataError, LayerInfo, Shards
from probes.patterns import Patterns, select
from probes.source import Source as Opened
from repanalysis.metrics import Metric, Noted, get, names, parse
from repanalysis.statistics import NonFiniteError, Statistic
from repanalysis.table import Table

__all__ = ["Source", "analyze"]

Source = str | PathLike[str] | Opened | Iterable[Batch] | Sequence[str | PathLike[str]]


def analyze(
    source: Source,
    metrics: str | Iterable[str | Metric] | None = None,
    *,
    layers: Patterns = None,
    run: str | None = None,
    model: str | None = None,
    partial: bool = False,
    state_budget: int = 2 << 30,
    recorded: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Table:
    """Compute metrics of every layer in one pass.

    Parameters
    ----------
    source : path, probes.Source, list of paths, or iterable of Batch
        Activations: a file, a folder or list of shards, or batches as `probes.capture` yields them (no file at all).
    metrics : str or iterable of str or Metric, optional
        Such as `["fisher_ratio", "rate_reduction:eps_sq=0.1"]`; default: all that there are.
    layers : str or sequence of str, optional
        Layer patterns (glob, `re:`, `type:`); default all.
    run : str, optional
        What the table calls this run; by default the file's name, or "run".
    model : str, optional
        What the table calls the model; by default what the file says.
    partial : bool, default False
        Whether to read what is committed of an incomplete file.
    state_budget : int, default 2 GiB
        Bytes that the statistics may take; a metric of a layer too wide for it is NaN, with a note.
    recorded : mapping, optional
        Provenance of live batches: model, weights, data; a file brings its own.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Returns
    -------
    Table
        A row per layer, metric and variant, in order of execution, with the provenance of every number.

    Raises
    ------
    UsageError
        If a metric, parameter or layer is unknown.
    DataError
        If there are no samples, no labels or one class only where a metric needs more, or a layer holds NaN or inf.

    Notes
    -----
    Layers with more than one axis per sample are flattened. Time n d^2 per layer; memory: about 32 MB of rows and
    K d^2 float64 of states, for one layer at a time where the source is a file.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 50)
    >>> batch = Batch(ids=np.arange(100), layers={"relu": rng.normal(size=(100, 3)) + labels[:, None]}, labels=labels)
    >>> table = analyze([batch], "class_mean_separation")
    >>> len(table), table.frame["layer"].unique().tolist(), table.frame["n"].unique().tolist()
    (4, ['relu'], [100])
    """
    chosen = _chosen(metrics)
    opened = _opened(source, partial=partial)
    if isinstance(opened, Opened):
        run = run or _stem(opened)
        model = model or str(opened.attrs.get("model", ""))
        wanted = select(layers, opened.info, opened.title)
        labels = opened.labels
        if not len(opened):
            raise DataError(f"{opened.title} holds no samples.")
        if labels is not None:
            _enough_classes(chosen, np.unique(labels))
        passes: Iterator[Iterable[Batch]] = (opened.iter([layer]) for layer in wanted)
        classes, total = () if labels is None else np.unique(labels).tolist(), len(opened) * len(wanted)
    else:
        passes, classes, total = iter([_only(opened, layers)]), (), None
    rows: list[dict[str, Any]] = []
    described: dict[str, dict[str, Any]] = {}
    with tqdm(total=total, unit=" rows", desc="analyze", disable=None if progress is None else not progress) as bar:
        for batches in passes:
            for layer in _states(batches, chosen, classes, state_budget, bar):
                rows += layer.rows(chosen)
                described[layer.info.name] = layer.described
    if not rows:
        raise DataError("There were no samples to analyze.")
    name = run or "run"
    provenance = _provenance(opened, chosen, described, recorded or {})
    return Table.from_rows([{"run": name, "model": model or "", **row} for row in rows], {name: provenance})


def _chosen(metrics: str | Iterable[str | Metric] | None) -> list[Metric]:
    """Metrics by name, by specification, or as they are."""
    if metrics is None:
        return [get(name) for name in names()]
    items = [metrics] if isinstance(metrics, str) else metrics
    found = [metric for item in items for metric in ([item] if isinstance(item, Metric) else parse(item))]
    return found or [get("")]


def _opened(source: Source, *, partial: bool) -> Opened | Iterable[Batch]:
    if isinstance(source, str | PathLike):
        return probes.open(source, partial=partial)
    if isinstance(source, list | tuple) and source and all(isinstance(item, str | PathLike) for item in source):
        return probes.open(source, partial=partial)
    return source  # type: ignore[return-value]  # what is left are stores and batches


def _stem(source: Opened) -> str:
    """What a run is called if nobody says: after the file, or the folder of shards."""
    return Path(source.stores[0].path).resolve().parent.name if isinstance(source, Shards) else Path(source.title).stem


def _only(batches: Iterable[Batch], patterns: Patterns) -> Iterator[Batch]:
    """Batches with the wanted layers alone."""
    for batch in batches:
        wanted = select(patterns, batch.info, "the batches")
        layers = {name: batch.layers[name] for name in wanted}
        yield Batch(batch.ids, layers, batch.labels, batch.split, {name: batch.info[name] for name in wanted}, batch.left_out)


def _enough_classes(metrics: Sequence[Metric], classes: NDArray[np.int64] | None) -> None:
    """Raise where a metric needs labels, or two classes, that are not there."""
    k = 0 if classes is None else len(classes)
    starved = [metric.name for metric in metrics if metric.min_classes > k]
    if not starved:
        return
    rest = [metric.name for metric in metrics if metric.min_classes <= k]
    instead = f" Choose metrics that do without: {', '.join(rest)}." if rest else ""
    if classes is None:
        raise DataError(f"The activations have no labels, which {', '.join(starved)} need.{instead}")
    raise DataError(f"All samples are of one class ({classes[0]}), and {', '.join(starved)} compare classes.{instead}")


@dataclass
class _Layer:
    """The states of one layer, as rows come in."""

    info: LayerInfo
    states: dict[Statistic, Any]
    refused: dict[Statistic, str]
    n: int = 0
    d: int = 0
    labelled: bool = True
    splits: set[str] = field(default_factory=set)

    @property
    def needed(self) -> list[Statistic]:
        """Every statistic that some metric needs."""
        return [*self.states, *self.refused]

    @property
    def described(self) -> dict[str, Any]:
        """What the provenance says of the layer."""
        info = self.info
        return {"d": self.d, "dims": info.dims, "pool": info.pool, "source_shape": info.source_shape}

    def absorb(self, batch: Batch) -> None:
        x = batch.layers[self.info.name].reshape(len(batch), -1)
        y = np.zeros(len(batch), np.int64) if batch.labels is None else batch.labels
        try:
            for statistic, state in self.states.items():
                self.states[statistic] = statistic.update(state, x, y)
        except NonFiniteError as error:
            raise DataError(
                f"Layer {self.info.name!r} holds {error.value} at sample id {batch.ids[error.row]}. Leave the layer out "
                f"(layers=, --layers), or find what overflows there."
            ) from error
        self.n += len(batch)
        self.labelled &= batch.labels is not None
        if batch.split is not None:
            self.splits |= set(np.unique(batch.split).tolist())

    def rows(self, metrics: Sequence[Metric]) -> Iterator[dict[str, Any]]:
        """Every metric's values as table rows."""
        place = {"layer": self.info.name, "order": self.info.order, "depth": self.info.depth}
        for metric in metrics:
            for variant, value in self._values(metric).items():
                yield place | {
                    "metric": metric.name,
                    "variant": variant,
                    "split": "+".join(sorted(self.splits)),
                    "value": float(value),
                    "n": self.n,
                    "note": value.note,
                }

    def _values(self, metric: Metric) -> dict[str, Noted]:
        for statistic, state in self.states.items():
            if statistic.covers(metric.needs):
                return metric(state)
        return {"": Noted("nan", self.refused.get(metric.needs) or next(iter(self.refused.values())))}


def _states(
    batches: Iterable[Batch], metrics: Sequence[Metric], classes: Sequence[int], budget: int, bar: Any
) -> Iterator[_Layer]:
    """The layers of a stream of batches with their final states, in order of execution."""
    layers: dict[str, _Layer] = {}
    first: Mapping[str, LayerInfo] | None = None
    for batch in batches:
        if first is None:
            first = batch.info
            known = classes or (() if batch.labels is None else np.unique(batch.labels).tolist())
            for name, info in batch.info.items():
                d = int(np.prod(batch.layers[name].shape[1:]))
                layers[name] = _started(info, d, known, metrics, budget // len(batch.info))
        elif list(batch.info) != list(first):
            odd = sorted(set(first) ^ set(batch.info))
            if not set(odd) <= set(batch.left_out):
                raise DataError(f"The batches do not all hold the same layers ({', '.join(odd[:3])}).")
            for name in odd:
                layers[name] = _Layer(layers[name].info, {}, dict.fromkeys(layers[name].needed, batch.left_out[name]))
            first = batch.info
        for name in batch.info:
            layers[name].absorb(batch)
            bar.update(len(batch))
    for layer in layers.values():
        if not layer.labelled:
            _enough_classes(metrics, None)
        elif layer.states and not classes:
            state = next(iter(layer.states.values()))
            _enough_classes(metrics, state.classes)
        yield layer


def _started(info: LayerInfo, d: int, classes: Sequence[int], metrics: Sequence[Metric], budget: int) -> _Layer:
    """A layer's empty states: those that metrics need, can be afforded, and no other one covers."""
    needed = dict.fromkeys(metric.needs for metric in metrics)
    sizes = {statistic: statistic.state_bytes(d, max(1, len(classes))) for statistic in needed}
    refused = {
        statistic: f"d = {d} needs {size / 2**30:.1f} GiB of state, more than the budget of {budget / 2**30:.1f} GiB; "
        "pool the layer, or raise the budget (state_budget=, --state-budget)"
        for statistic, size in sizes.items()
        if size > budget
    }
    fitting = [statistic for statistic in needed if statistic not in refused]
    kept = [one for one in fitting if not any(other.covers(one) and other != one for other in fitting)]
    return _Layer(info, {statistic: statistic.init(d, classes) for statistic in kept}, refused, d=d)


def _provenance(
    source: Opened | Iterable[Batch],
    metrics: Sequence[Metric],
    layers: Mapping[str, Mapping[str, Any]],
    recorded: Mapping[str, Any],
) -> dict[str, Any]:
    """How the numbers were obtained, as JSON can hold it."""
    stored = source if isinstance(source, Opened) else None
    try:
        ours = version("repanalysis")
    except PackageNotFoundError:
        ours = "not installed"
    return {
        "source": stored.title if stored else "batches in memory",
        "recorded": {key: value for key, value in (stored.attrs if stored else recorded).items() if key != "left_out"},
        "layers": {name: {key: _plain(value) for key, value in facts.items()} for name, facts in layers.items()},
        "metrics": {metric.name: metric.parameters for metric in metrics},
        "analyzed": datetime.now(UTC).isoformat(timespec="seconds"),
        "repanalysis": ours,
        "numpy": np.__version__,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
