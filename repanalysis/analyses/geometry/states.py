"""The statistics' states of one layer, updated batch by batch, and the metrics computed from them.

Which statistic provides for the metrics depends on the data: moments of every class, in groups for the jackknife; or the rows
themselves, if they need less memory than a scatter matrix per class; or, if both exceed the budget, none, and the values are
NaN with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from probes import Batch, DataError, LayerInfo
from probes.labels import MISSING
from repanalysis.analyses.geometry.subset import Subset
from repanalysis.analyses.uncertainty import few_groups, jackknife
from repanalysis.metrics import Metric, Value, get
from repanalysis.metrics._bias import without_notes
from repanalysis.statistics import ClassMoments, GroupedMoments, Groups, NonFiniteError, RowMoments, Rows, Statistic
from repanalysis.statistics.rounding import EXACT, resolution_of

__all__ = [
    "Job", "LayerStates", "NonFinite", "StatisticsPlan", "first_layer_of_dtypes", "layer_columns", "plan_statistics",
    "resolution_of_layer",
]  # fmt: skip

Samples = Literal["all", "labelled", "targets"]
_BY_CLASS = ClassMoments | Groups | Rows
_UNDEFINED_WITHOUT = "no standard error: without a tenth of the samples the metric is undefined or infinite"
_IN_STEPS = "no standard error: it moves in steps, which a jackknife misses"


@dataclass(frozen=True)
class Job:
    """The specification of an analysis: what to compute for every layer.

    Attributes
    ----------
    metrics : tuple of Metric
        The metrics.
    groups : int
        Number of jackknife groups; 0 omits the standard errors of smooth metrics.
    null : int
        Number of label permutations.
    seed : int
        Seed of the permutations.
    budget : int
        Memory for the states of one layer, in bytes.
    subset : Subset
        The samples to use.
    default_metrics : bool
        Whether the caller named no metric, so that all are computed that the data allow: metrics of the network's head are then
        omitted, rather than NaN, at layers whose width is not that of the head.
    strict : bool
        Whether a layer that cannot be analyzed raises; otherwise its values are NaN with the reason.
    types : tuple of (str, int)
        Data types that the network computes in, each with the order of its first layer.
    """

    metrics: tuple[Metric, ...]
    groups: int = 10
    null: int = 0
    seed: int = 0
    budget: int = 2 << 30
    subset: Subset = field(default_factory=Subset)
    default_metrics: bool = False
    strict: bool = False
    types: tuple[tuple[str, int], ...] = ()

    def with_target_names(self, targets: tuple[str, ...]) -> Job:
        """The job with the targets' names as a parameter of the metrics that use targets."""
        named = [
            get(metric.name, **{**metric.params, "names": targets}) if metric.needs_targets else metric
            for metric in self.metrics
        ]
        return replace(self, metrics=tuple(named)) if targets else self

    def for_layer(self, d: int, shape: tuple[int, ...] = (), dims: tuple[str, ...] = ()) -> Job:
        """The job for a layer of d features; `shape` is that of the unpooled output, `dims` are the names of recorded axes."""
        heads = {metric: metric.params["head"].at(d, shape) for metric in self.metrics if metric.params.get("head") is not None}
        fitting_metrics = [
            metric for metric in self.metrics if metric not in heads or (heads[metric].takes(d) and not heads[metric].foreign)
        ]
        if not self.default_metrics:
            fitting_metrics = [
                get(metric.name, **{**metric.params, "head": heads[metric]}) if metric in heads else metric
                for metric in self.metrics
            ]
        maps = _shape_of_maps(d, shape, dims)
        with_shapes = [
            get(metric.name, **{**metric.params, "shape": maps}) if "shape" in metric.parameters else metric
            for metric in fitting_metrics
        ]
        return replace(self, metrics=tuple(with_shapes))


def _shape_of_maps(d: int, shape: tuple[int, ...], dims: tuple[str, ...]) -> tuple[int, ...] | None:
    """(C, *size) of maps recorded whole, channels first; () of features without positions; None of other recordings."""
    if len(shape) < 2:
        return ()
    whole = math.prod(shape) == d and len(shape) in (2, 3) and len(dims) == len(shape) + 1 and dims[1] == "channel"
    return shape if whole else None


@dataclass(frozen=True)
class StatisticsPlan:
    """The statistics of a layer, the reasons why some are refused, and why there are no standard errors."""

    statistics: tuple[Statistic, ...]
    refused: Mapping[Statistic, str]
    no_error: str = ""


def plan_statistics(metrics: Sequence[Metric], d: int, k: int, n: int | None, *, groups: int, budget: int) -> StatisticsPlan:
    """The statistics for metrics of d features, k classes and n samples (None: unknown) within a memory budget.

    Notes
    -----
    Rows replace moments if they fit the budget and need less memory than K d^2 numbers.
    """
    needed = list(dict.fromkeys(metric.needs for metric in metrics))
    statistics: list[Statistic] = []
    refused: dict[Statistic, str] = {}
    no_error = ""
    normalizations: tuple[Literal["none", "sphere"], ...] = ("none", "sphere")
    for normalize in normalizations:
        moments = [
            statistic for statistic in needed if isinstance(statistic, ClassMoments) and statistic.normalize == normalize
        ]
        if not moments:
            continue
        full = next((statistic for statistic in moments if statistic.scatter == "per_class"), None)
        whole = full or moments[0]
        grouped: Statistic = Groups(whole, groups) if groups else whole
        rows = None if n is None else Rows(normalize=normalize).state_bytes(d, k, n)
        single = whole.state_bytes(d, k)
        if full and rows is not None and rows < single and rows <= budget:
            statistics.append(Rows(normalize=normalize))
        elif grouped.state_bytes(d, k) <= budget:
            statistics.append(grouped)
        elif single <= budget:
            statistics.append(whole)
            size = grouped.state_bytes(d, k) / 2**30
            no_error = f"no standard error: the jackknife needs {size:.1f} GiB of state (--state-budget, state_budget=)"
        elif rows is not None and rows <= budget:
            statistics.append(Rows(normalize=normalize))
        else:
            means = [statistic for statistic in moments if statistic.scatter == "none"]
            statistics += [Groups(statistic, groups) if groups else statistic for statistic in means]
            refused[whole] = (
                f"d = {d} needs {single / 2**30:.1f} GiB of state, more than the budget of {budget / 2**30:.1f} GiB; "
                "pool the layer, or raise the budget (state_budget=, --state-budget)"
            )
    statistics += [statistic for statistic in needed if not isinstance(statistic, ClassMoments)]
    return StatisticsPlan(tuple(statistics), refused, no_error)


def first_layer_of_dtypes(layers: Iterable[LayerInfo]) -> tuple[tuple[str, int], ...]:
    """Every data type that a network computes in, with the order of its first layer."""
    first: dict[str, int] = {}
    for layer in layers:
        if layer.dtype_source:
            first[layer.dtype_source] = min(layer.order, first.get(layer.dtype_source, layer.order))
    return tuple(first.items())


def resolution_of_layer(first: Iterable[tuple[str, int]], info: LayerInfo) -> NDArray[np.float64]:
    """Rounding variance of the network's own arithmetic in a layer, from `first_layer_of_dtypes`.

    It is that of the coarsest type in which this layer or an earlier one was computed, since later layers inherit rounding
    errors. A mean over positions averages them.
    """
    types = [dtype for dtype, order in first if order <= info.order]
    resolution: NDArray[np.float64] = np.maximum.reduce([EXACT, *(resolution_of(dtype, info.averaged) for dtype in types)])
    return resolution


@dataclass
class NonFinite:
    """The samples of a layer that hold NaN, inf, or numbers whose square overflows.

    Attributes
    ----------
    value : float
        The first such number.
    sample : int
        Id of its sample.
    count : int
        Number of such samples.
    """

    value: float
    sample: Any
    count: int = 0

    def update(self, x: NDArray[Any]) -> None:
        """Count the samples of a batch (n, d)."""
        with np.errstate(over="ignore"):
            self.count += int((~np.isfinite(np.square(x, dtype=np.float64)).all(axis=1)).sum())

    def sentence(self, n: int) -> str:
        """The reason why a layer of n samples can't be analyzed."""
        overflows = ", whose square overflows" if math.isfinite(self.value) else ""
        others = "the only such sample" if self.count == 1 else f"the first of {self.count:,} such samples"
        return f"holds {self.value}{overflows} at sample id {self.sample!r}, {others} of {n:,}"


@dataclass
class LayerStates:
    """The states of one layer; they are dropped at the first row that is not finite."""

    info: LayerInfo
    job: Job
    plan: StatisticsPlan
    d: int
    classes: Sequence[int] = ()
    n: int = 0
    n_labelled: int = 0
    n_targets: int = 0
    labelled: bool = True
    resolution: NDArray[np.float64] = field(default_factory=lambda: EXACT)
    splits: set[str] = field(default_factory=set)
    non_finite: NonFinite | None = None
    seen_classes: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.states: dict[tuple[Statistic, Samples], Any] = {}
        for statistic in self.plan.statistics:
            kinds = {_samples_of(metric) for metric in self._metrics_of(statistic)}
            for samples in kinds - ({"labelled"} if "all" in kinds else set()):
                self.states[statistic, samples] = statistic.init(self.d, self.classes)

    def _metrics_of(self, statistic: Statistic) -> list[Metric]:
        """The metrics that are computed from a statistic."""
        return [metric for metric in self.job.metrics if _provider_of(metric, self.plan.statistics) is statistic]

    def _separate_labelled(self) -> None:
        """Start a separate state for class metrics at the first sample without a label.

        Moments need none: they hold unlabelled samples as a class of their own.
        """
        for statistic in self.plan.statistics:
            both = {_samples_of(metric) for metric in self._metrics_of(statistic)} >= {"all", "labelled"}
            if both and (statistic, "labelled") not in self.states and not isinstance(statistic, _BY_CLASS):
                state = self.states[statistic, "all"]
                self.states[statistic, "labelled"] = type(state)(*(np.copy(array) for array in state))

    @property
    def layer_attrs(self) -> dict[str, Any]:
        """The layer's entry in the provenance."""
        info = self.info
        return {"d": self.d, "dims": info.dims, "pool": info.pool, "source_shape": info.source_shape}

    def update(self, batch: Batch, labels: Any = None, targets: Any = None) -> None:
        """Add the rows of a batch; `labels` and `targets` replace the batch's own.

        Class metrics get the rows with a label, metrics of targets the rows with at least one target, all others every row.

        Raises
        ------
        DataError
            If a row holds NaN or inf and the job is strict; otherwise such rows are counted.
        """
        mask, y = self.job.subset.apply(batch.labels if labels is None else labels, batch.split)
        x, ids = batch.layers[self.info.name].reshape(len(batch), -1), batch.ids
        keys = batch.keys
        if mask is not None:
            x, ids, keys = x[mask], ids[mask], keys[mask]
        y = np.zeros(len(x), np.int64) if y is None else y
        targets_of_rows = batch.targets if targets is None else targets
        targets_of_rows = targets_of_rows if targets_of_rows is None or mask is None else targets_of_rows[mask]
        rows: dict[Samples, Any] = {"all": None, "labelled": y != MISSING}
        if not rows["labelled"].all():
            self._separate_labelled()
        if targets_of_rows is not None:
            rows["targets"] = ~np.isnan(targets_of_rows).all(axis=1)
        self._update_states(x, {"all": y, "labelled": y, "targets": targets_of_rows}, ids, keys, rows)
        if self.non_finite is not None:
            self.non_finite.update(x)
        self.n += len(x)
        self.n_labelled += int(rows["labelled"].sum())
        self.n_targets += int(rows["targets"].sum()) if "targets" in rows else 0
        self.labelled &= batch.labels is not None
        if batch.labels is not None:
            self.seen_classes |= set(np.unique(y[rows["labelled"]]).tolist())
        if batch.split is not None:
            self.splits |= set(np.unique(batch.split if mask is None else batch.split[mask]).tolist())

    def _update_states(self, x: Any, columns: Mapping[Samples, Any], ids: Any, keys: Any, rows: Mapping[Samples, Any]) -> None:
        """Update every statistic with its rows (None: all) and their labels or targets."""
        for (statistic, samples), state in list(self.states.items()):
            if samples not in rows:
                continue
            selected = slice(None) if rows[samples] is None or rows[samples].all() else rows[samples]
            if not len(x[selected]):
                continue
            try:
                self.states[statistic, samples] = statistic.update(
                    state, x[selected], columns[samples][selected], keys[selected]
                )
            except NonFiniteError as error:
                name, sample = self.info.name, ids[selected][error.row].item()
                if self.job.strict:
                    raise DataError(
                        f"Layer {name!r} holds {error.value} at sample id {sample!r}. Leave the layer out "
                        f"(layers='!{name}', --layers '!{name}'), or find what overflows there."
                    ) from error
                self.non_finite = NonFinite(error.value, sample)
                self.states.clear()
                return

    @property
    def failure(self) -> str:
        """The reason why the layer, or one of its statistics, could not be analyzed; empty if it could."""
        if self.non_finite is not None:
            return self.non_finite.sentence(self.n)
        return next(iter(self.plan.refused.values()), "")

    def values(self) -> dict[tuple[Metric, str], Value]:
        """The values of every metric and variant, with standard errors."""
        if self.non_finite is not None:
            return {(metric, ""): Value("nan", self.failure) for metric in self.job.metrics}
        finished = {key: self._with_resolution(key[0].finish(state)) for key, state in self.states.items()}
        values_by_variant: dict[tuple[Metric, str], Value] = {}
        for statistic in self.plan.statistics:
            for samples in get_args(Samples):
                if not (mine := [metric for metric in self._metrics_of(statistic) if _samples_of(metric) == samples]):
                    continue
                state = finished[statistic, samples if (statistic, samples) in finished else "all"]
                if samples == "labelled" and isinstance(statistic, _BY_CLASS):
                    state = state.without_class(MISSING)
                whole = _evaluate(mine, state.whole if isinstance(state, GroupedMoments) else state)
                values_by_variant |= self._with_errors(mine, whole, state)
        for metric in self.job.metrics:
            if _provider_of(metric, self.plan.statistics) is None:
                reason = self.plan.refused.get(metric.needs) or next(iter(self.plan.refused.values()))
                values_by_variant[metric, ""] = Value("nan", reason)
        return {
            (metric, variant): values_by_variant[metric, variant]
            for metric in self.job.metrics
            for key, variant in values_by_variant
            if key is metric
        }

    def _with_resolution(self, state: Any) -> Any:
        """A finished state with the rounding of the network's own types, which may be coarser than the stored type."""
        if isinstance(state, GroupedMoments):
            return state._replace(whole=state.whole.at_resolution(self.resolution))
        return state.at_resolution(self.resolution) if hasattr(state, "at_resolution") else state

    def _with_errors(
        self, metrics: Sequence[Metric], whole: dict[tuple[Metric, str], Value], state: Any
    ) -> dict[tuple[Metric, str], Value]:
        """The values of smooth metrics with their jackknife standard errors."""
        if isinstance(state, GroupedMoments):
            replicates: Iterable[tuple[int, Any]] = state.replicates()
        elif isinstance(state, RowMoments) and self.job.groups:
            replicates = state.replicates(self.job.groups)
        else:
            return {
                key: Value(value, _join_notes(value.note, self.plan.no_error if key[0].has_jackknife_se else ""), se=value.se)
                for key, value in whole.items()
            }
        sizes, replicate_values = [], []
        for size, rest in replicates:
            sizes.append(size)
            with without_notes():
                replicate_values.append(_evaluate(metrics, rest))
        undefined = Value("nan")
        errors = {}
        without_se = {
            key[0] for key, value in whole.items()
            if math.isfinite(value) and not all(math.isfinite(values.get(key, undefined)) for values in replicate_values)
        }  # fmt: skip
        for key, value in whole.items():
            if key[0].moves_in_steps(key[1]):
                errors[key] = Value(value, _join_notes(value.note, _IN_STEPS))
                continue
            if key[0] in without_se and math.isfinite(value):
                errors[key] = Value(value, _join_notes(value.note, _UNDEFINED_WITHOUT))
                continue
            left_out = [values.get(key, undefined) for values in replicate_values]
            se = jackknife(value, left_out, sizes) * few_groups(len(sizes))
            errors[key] = Value(value, value.note, se=se)
        return errors

    def rows(self) -> Iterator[dict[str, Any]]:
        """The values as table rows."""
        split = self.job.subset.split or "+".join(sorted(self.splits))
        for (metric, variant), value in self.values().items():
            yield layer_columns(self.info) | {
                "metric": metric.name,
                "variant": variant,
                "split": split,
                "value": float(value),
                "se": value.se if math.isfinite(value) else math.nan,
                "n": self._rows_of(metric)[0],
                "note": _join_notes(value.note, self._rows_of(metric)[1]),
            }

    def _rows_of(self, metric: Metric) -> tuple[int, str]:
        """Number of samples that a metric uses, and a note if others lack a label or target."""
        counts: dict[Samples, tuple[int, str]] = {"labelled": (self.n_labelled, "label"), "targets": (self.n_targets, "target")}
        n, missing = counts.get(_samples_of(metric), (self.n, ""))
        return n, f"{self.n - n} of {self.n} samples have no {missing}" if n < self.n else ""


def _samples_of(metric: Metric) -> Samples:
    """The kind of samples that a metric uses."""
    return "targets" if metric.needs_targets else "labelled" if metric.by_class else "all"


def layer_columns(info: LayerInfo) -> dict[str, Any]:
    """Name, order and depth of a layer, as columns of a table."""
    return {"layer": info.name, "order": info.order, "depth": info.depth}


def _provider_of(metric: Metric, statistics: Sequence[Statistic]) -> Statistic | None:
    """The statistic from which a metric is computed."""
    return next((statistic for statistic in statistics if statistic.covers(metric.needs)), None)


def _evaluate(metrics: Sequence[Metric], state: Any) -> dict[tuple[Metric, str], Value]:
    return {(metric, variant): value for metric in metrics for variant, value in metric(state).items()}


def _join_notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))
