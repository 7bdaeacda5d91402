"""Accuracy of a linear head on each layer, and the label clusters of the layer's filters.

For each layer a linear head is fitted to training activations. Test activations give its accuracy and the class means that
define the field of each filter (`heads/clusters.py`; docs/filter_clusters.md, Formulas). No sample is used for both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_doc import Doc
from annotated_types import Ge
from numpy.typing import NDArray
from scipy import sparse
from tqdm.auto import tqdm

import probes
from probes.batch import LayerInfo
from probes.errors import DataError, LeftOutWarning, UsageError, reason_of
from probes.labels import IGNORED
from probes.patterns import matches, select
from probes.source import Source
from repanalysis.analyses.declaration import LayersOption, Result, StrictOption, analysis
from repanalysis.analyses.uncertainty import few_groups
from repanalysis.heads.clusters import ClusterOptions, FilterClusters, clusters_of
from repanalysis.heads.fitting import HeadOptions, refitted
from repanalysis.heads.scoring import above_chance, accuracy_of
from repanalysis.specs import Names, Read
from repanalysis.statistics.draws import fitted_on
from repanalysis.table import Table

__all__ = ["LabelledActivations", "LayerFilters", "class_means", "filters", "load_layer", "top_activating"]

METRIC_OF = {
    "clusters_per_filter": "clusters", "cluster_size": "cluster_size", "labels_per_filter": "labels",
    "noise_per_filter": "noise", "noise_in_served_columns": "noise_served", "internal_per_filter": "internal",
    "snr_pair": "snr_pair", "snr_total": "snr_total", "snr_internal": "snr_internal", "snr_external": "snr_external",
    "snr_field_unit": "snr_field_unit", "snr_field_raw": "snr_field_raw", "filters_per_label": "signal",
    "signal_variation": "signal_cv", "signal_dispersion": "dispersion", "vote_margin": "margin", "orphan_labels": "orphans",
    "kept_share": "kept", "filters_per_layer": "filters", "empty_filters": "empty", "fragile_elements": "fragile",
}  # fmt: skip
_RESAMPLED = {*METRIC_OF.values()} - {"filters", "fragile"}  # measures that vary under resampling
_UNDERCOVERED = {"snr_external", "snr_field_unit", "snr_field_raw", "dispersion"}  # coverage of their intervals is below 0.9
_COUNT_EMPTY = ("clusters_per_filter", "labels_per_filter", "noise_per_filter")
_N_COMPARED = 20  # samples of equal id whose activations are compared, to detect files with the same samples
_MAX_ELEMENTS = 10**8  # of all resampled fields, above which standard errors are not estimated


Part = tuple[Source, NDArray[np.int64]]  # rows of a source


@dataclass(frozen=True, eq=False)
class LayerFilters:
    """One layer's head and clusters.

    Attributes
    ----------
    weight : (K, F, P) float64
        Weights of the head.
    means : (K, F, P) float64
        Class means of the test activations.
    accuracy, accuracy_se : float
        On test activations.
    clusters : FilterClusters
        Clusters, noise and votes.
    labels : (K,) int64
        Class of each row of `weight`.
    """

    weight: NDArray[np.float64]
    means: NDArray[np.float64]
    accuracy: float
    accuracy_se: float
    clusters: FilterClusters
    labels: NDArray[np.int64]


def groups_by_pattern(texts: Sequence[str]) -> dict[str, int]:
    """Number of groups by layer pattern, from `PATTERN=COUNT`.

    Examples
    --------
    >>> groups_by_pattern(["*attn*=3"])
    {'*attn*': 3}
    """
    groups = {}
    for text in texts:
        pattern, equals, count = text.rpartition("=")
        if not equals or not count.isdigit() or int(count) < 1:
            raise UsageError(f"{text!r} is not of the form PATTERN=COUNT, such as '*attn*=3'.")
        groups[pattern] = int(count)
    return groups


@analysis
def filters(
    train: Source | str | PathLike[str],
    test: Source | str | PathLike[str] | None = None,
    *,
    layers: LayersOption = None,
    clusters: ClusterOptions = ClusterOptions(),  # noqa: B008  # frozen
    heads: HeadOptions = HeadOptions(),  # noqa: B008  # frozen
    groups: Annotated[
        Mapping[str, int] | None,
        Doc("Number of channel groups that count as one filter each, PATTERN=COUNT, such as '*attn*=3' for 3 heads."),
        Read(groups_by_pattern, list[str]),
        Names("--group"),
    ] = None,
    bootstrap: Annotated[int, Ge(0), Doc("Resamplings for standard errors.")] = 20,
    run: str | None = None,
    seed: int = 0,
    state_budget: int = 4 << 30,
    progress: bool | None = None,
    strict: StrictOption = False,
) -> Result[LayerFilters]:
    """Accuracy per layer, and the label clusters of its filters.

    Parameters
    ----------
    train, test : Source or path-like
        Activations that heads are fitted to, and activations of the same layers that measures are computed from. Without
        `test`, the splits "train" and "test" of the first; without splits, the halves that the read-out metrics use, drawn by
        id.
    layers : str or sequence of str, optional
        Layer patterns; by default all layers.
    clusters : ClusterOptions
        Threshold, column order and weight centring of the clusters.
    heads : HeadOptions
        Solver and penalty of the layers' heads.
    groups : mapping of pattern to int, optional
        Number of channel groups of the matching layers; a group, such as an attention head, counts as one filter, whose field
        is the sum of its channels' fields.
    bootstrap : int, default 20
        Number of resamplings of the training samples, for which the head is refitted by one Newton step, and of the test
        samples within their classes. The standard deviation over them is the standard error; it is NaN if it would take
        minutes, or if no resampling changed the value.
    run : str, optional
        Name of the run in the table; by default that of the training file.
    seed : int, default 0
        Of resampling and `sgd`.
    state_budget : int, default 4 GiB
        Limit on the bytes of one layer's activations in memory.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    strict : bool, default False
        Whether to raise at the first layer that cannot be analyzed. By default its values are NaN with the reason in their
        note, the table's `failures` lists it, and a warning is given.

    Returns
    -------
    Result
        `table`: for each layer `layer_accuracy` and the measures of `FilterClusters.summary`; in the variant "with empty
        filters" these count as zeros. `n` is the number of test samples. The note says if the head is no better than chance.
        `artifacts`: a `LayerFilters` per layer, with head and clusters.

    Raises
    ------
    UsageError, DataError
        If the files share no layer, contain the same samples, have no labels, or only one label; with `strict`, if a layer
        contains NaN or inf, has different shapes in the two files, or exceeds `state_budget`.

    Warns
    -----
    LeftOutWarning
        If layers could not be analyzed.

    Notes
    -----
    A filter is a channel; its P positions are those that were recorded. With one position per filter its field has rank one,
    and values are not comparable with those of layers with more positions.
    """
    parts = _parts(train, test)
    train_source, test_source = parts[0][0], parts[1][0]
    shared = {layer: info for layer, info in train_source.info.items() if layer in test_source.info}
    if not shared:
        raise UsageError(
            f"{train_source.name} and {test_source.name} share no layer; the second has {', '.join(test_source.layers[:5])}."
        )
    selected = select(layers, shared, f"{train_source.name} and {test_source.name}")
    labels = [_labels(*part) for part in parts]
    classes, missing = _common(labels)
    note = f"labels {missing} are missing in the training or the test samples" if missing else ""
    measure = _LayerMeasurement(
        parts, labels, classes, note, clusters, heads, dict(groups or {}), bootstrap, seed, state_budget
    )
    name = run or train_source.name.rpartition("/")[2].partition(".")[0]
    model = str(train_source.attrs.get("model", ""))
    rows: list[dict[str, Any]] = []
    measured: dict[str, LayerFilters] = {}
    failures: dict[str, str] = {}
    for layer in tqdm(selected, desc=name, unit=" layers", disable=None if progress is None else not progress):
        info = train_source.info[layer]
        base = {
            "run": name, "model": model, "layer": layer, "order": info.order, "depth": info.depth,
            "n": int(np.isin(labels[1], classes).sum()),
        }  # fmt: skip
        result = _rows_or_failure(measure, layer, strict=strict)
        if isinstance(result, str):
            failures[layer] = result
            rows.append(base | {"metric": "layer_accuracy", "value": np.nan, "note": result})
        else:
            measured[layer] = result[0]
            rows += [base | row for row in result[1]]
    places = {layer: filters.clusters.places for layer, filters in measured.items()}
    provenance = {"source": train_source.name, "test": test_source.name, "model": model, "places": places}
    if failures:
        provenance["failures"] = failures
    table = Table.from_rows(_with_all_metrics(rows, failures), {name: provenance})
    if failures:
        warnings.warn(f"{table.failure}; its values are NaN.", LeftOutWarning, stacklevel=3)
    return Result(table, measured)


@dataclass(frozen=True)
class _LayerMeasurement:
    """Fits a head to a layer and measures its filters: what is the same for all layers, and a call per layer."""

    parts: Sequence[Part]
    labels: Sequence[NDArray[np.int64]]
    classes: NDArray[np.int64]
    note: str
    clusters: ClusterOptions
    heads: HeadOptions
    groups: Mapping[str, int]
    bootstrap: int
    seed: int
    state_budget: int

    def __call__(self, layer: str) -> tuple[LayerFilters, str, dict[str, float]]:
        """A layer's head and clusters, a note, and the standard errors of the measures of `summary`."""
        infos = [source.info[layer] for source, _ in self.parts]
        shapes = infos[0].source_shape, infos[1].source_shape
        if shapes[0] and shapes[0] != shapes[1]:
            raise DataError(f"Layer {layer} is {shapes[0]} in training and {shapes[1]} in test data.")
        types = [infos[0].module_type]
        n_groups = next((count for pattern, count in self.groups.items() if matches(pattern, layer, types)), 1)
        data = [
            _load(*part, layer, part_labels, self.classes, n_groups, self.state_budget)
            for part, part_labels in zip(self.parts, self.labels, strict=True)
        ]
        head = _head(data[0], len(self.classes), self.heads, self.seed)
        filters, note = _measure(head, data[1], self.classes, self.clusters)
        return filters, note, _bootstrap_se(data, filters, self.heads.alpha, self.bootstrap, self.seed)


def _rows_or_failure(
    measure: _LayerMeasurement, layer: str, *, strict: bool
) -> tuple[LayerFilters, list[dict[str, Any]]] | str:
    """A layer's head and clusters, and its rows; or the reason why it could not be analyzed."""
    try:
        filters, note, errors = measure(layer)
    except UsageError:  # an invalid argument, not a fault of this layer
        raise
    except Exception as error:
        if strict:
            error.add_note(f"layers='!{layer}', --layers '!{layer}' leaves it out")
            raise
        return reason_of(error)
    return filters, _table(filters, errors, "; ".join(filter(None, [note, measure.note])))


def _with_all_metrics(rows: Sequence[dict[str, Any]], failures: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows, with a NaN row for every metric of a layer that failed, so that its curves have a gap."""
    keys = dict.fromkeys((row["metric"], row.get("variant", "")) for row in rows)
    return [
        row | ({"metric": metric, "variant": variant} if row["layer"] in failures else {})
        for row in rows
        for metric, variant in (keys if row["layer"] in failures else [("", "")])
    ]


def _parts(*sources: Source | str | PathLike[str] | None) -> list[Part]:
    """The training and the test samples, as rows of sources."""
    opened = [source if isinstance(source, Source) else probes.open(source) for source in sources if source is not None]
    if len(opened) == 2:
        _refuse_overlap(*opened)
        return [(source, np.arange(len(source))) for source in opened]
    (source,) = opened
    splits = None if source.split is None else np.asarray(source.split)
    if splits is not None and {"train", "test"} <= set(splits.tolist()):
        return [(source, np.flatnonzero(splits == split)) for split in ("train", "test")]
    train_mask = fitted_on(source.ids)
    return [(source, np.flatnonzero(mask)) for mask in (train_mask, ~train_mask)]


def _refuse_overlap(first: Source, second: Source) -> None:
    """Raise if both contain the same samples, or were recorded with different weights."""
    weights = [str(source.attrs.get("weights_sha256", "")) for source in (first, second)]
    if all(weights) and weights[0] != weights[1]:
        raise DataError(f"{first.name} and {second.name} were recorded with different weights; extract both with the same.")
    shared = np.intersect1d(first.ids, second.ids)[:_N_COMPARED]
    layer = next((name for name in reversed(first.layers) if name in second.info), None)
    if not len(shared) or layer is None:
        return
    rows = [np.flatnonzero(np.isin(source.ids, shared)) for source in (first, second)]
    x, y = (
        source.take(layer, indices)[np.argsort(source.ids[indices])]
        for source, indices in zip((first, second), rows, strict=True)
    )
    if x.shape == y.shape and np.array_equal(x, y):
        raise UsageError(
            f"{first.name} and {second.name} contain the same samples; heads must be measured on samples that they were not "
            f"fitted to. Give activations of other samples."
        )


def _labels(source: Source, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if source.labels is None:
        has = "has continuous targets and" if source.targets is not None else "has"
        raise DataError(f"{source.name} {has} no labels; the clusters of filters are clusters of labels.")
    return source.labels[rows]


def _common(labels: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], list[int]]:
    """Labels that both parts have, ascending, and labels that only one has."""
    present = [set(part.tolist()) - set(IGNORED) for part in labels]
    shared = sorted(present[0] & present[1])
    if len(shared) < 2:
        raise DataError(f"Training and test samples share {len(shared)} labels; heads and clusters need at least two.")
    return np.array(shared, np.int64), sorted(present[0] ^ present[1])


def _channel_axis(info: LayerInfo) -> int:
    """The axis of a layer's filters."""
    return info.dims.index("channel") if "channel" in info.dims else 1


def _load(  # noqa: PLR0917  # one call, above
    source: Source,
    rows: NDArray[np.int64],
    layer: str,
    labels: NDArray[np.int64],
    classes: NDArray[np.int64],
    groups: int,
    budget: int,
) -> LabelledActivations:
    """Activations (n, F, P) of the samples whose label is in `classes`, their labels as 0 to K - 1, and their ids."""
    info = source.info[layer]
    selected = np.isin(labels, classes)
    sample = source.take(layer, rows[:1])
    n_bytes = int(selected.sum()) * sample.nbytes
    if n_bytes > budget:
        shape = "x".join(map(str, sample.shape[1:]))
        raise DataError(
            f"Layer {layer} ({shape}) of {int(selected.sum())} samples takes {n_bytes / 2**30:.1f} GiB; state_budget is "
            f"{budget / 2**30:.1f} GiB. Extract the layer with --pool '{layer}=grid:4', or exclude it."
        )
    x = source.take(layer, rows[selected]) if len(rows) < len(source) or not selected.all() else source[layer]
    x = np.moveaxis(x, _channel_axis(info), 1) if x.ndim > 2 else x
    x = x.reshape(len(x), x.shape[1], -1)
    if groups > 1:
        if x.shape[1] % groups:
            raise UsageError(f"The {x.shape[1]} channels of {layer} can't be divided into {groups} equal groups.")
        x = x.reshape(len(x), groups, -1)
    ids = source.ids[rows[selected]]
    finite = np.isfinite(x).all(axis=(1, 2))
    if not finite.all():
        raise DataError(
            f"Layer {layer} of {source.name} holds NaN or inf in {int((~finite).sum()):,} of {len(x):,} samples, the first of "
            f"them id {ids[~finite][0]}."
        )
    return LabelledActivations(x, np.searchsorted(classes, labels[selected]), ids)


class LabelledActivations(NamedTuple):
    """Activations of one layer, (n, F, P), labels as 0 to K - 1, and sample ids."""

    x: NDArray[Any]
    y: NDArray[np.int64]
    ids: NDArray[np.int64]


def _head(train: LabelledActivations, k: int, options: HeadOptions, seed: int) -> NDArray[np.float64]:
    """The head of one layer, (K, F, P)."""
    x, y, _ = train
    weights = options.fit(x.reshape(len(x), -1), y, k, seed=seed)
    return weights.reshape(k, *x.shape[1:])


def _measure(
    weight: NDArray[np.float64], test: LabelledActivations, classes: NDArray[np.int64], options: ClusterOptions
) -> tuple[LayerFilters, str]:
    """Accuracy and clusters of one layer."""
    k = len(weight)
    accuracy, se = accuracy_of(weight.reshape(k, -1), test.x.reshape(len(test.x), -1), test.y)
    chance = f"the head's accuracy {accuracy:.3f} is no better than chance {1 / k:.3f}"
    note = "" if above_chance(accuracy, se, k) else f"uninformative: {chance}"
    means = class_means(test.x, test.y, k)
    clusters = clusters_of(means, weight, options)
    return LayerFilters(weight, means, accuracy, se, clusters, classes), note


def class_means(x: NDArray[Any], y: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Mean activations of each label, (K, F, P); 0 for a label without samples."""
    return _means(x, y, 1 / np.bincount(y, minlength=k)[y], k).reshape(k, *x.shape[1:])


def _means(x: NDArray[Any], y: NDArray[np.int64], weight: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Weighted sums of the rows of each label, in float64, without a copy of x."""
    flat = x.reshape(len(x), -1)
    indicator = sparse.csr_array((weight, (y, np.arange(len(y)))), shape=(k, len(y)))
    sums = np.zeros((k, flat.shape[1]))
    step = max(1, (32 << 20) // (8 * flat.shape[1]))
    for start in range(0, len(flat), step):
        sums += indicator[:, start : start + step] @ flat[start : start + step].astype(np.float64)
    return sums


def load_layer(
    train: Source | str | PathLike[str],
    test: Source | str | PathLike[str] | None = None,
    *,
    layer: str | None = None,
    state_budget: int = 4 << 30,
) -> tuple[str, LabelledActivations, LabelledActivations, int]:
    """The training and test activations of one layer: (layer name, training data, test data, number of classes K).

    Parameters
    ----------
    train, test
        As for `filters`.
    layer : str, optional
        By default the last layer.
    state_budget : int, default 4 GiB
        Limit on the bytes of the layer's activations.

    Raises
    ------
    UsageError, DataError
        As for `filters`.
    """
    parts = _parts(train, test)
    name = layer or parts[0][0].layers[-1]
    for source, _ in parts:
        source.check_layer(name)
    labels = [_labels(*part) for part in parts]
    classes, _ = _common(labels)
    train_data, test_data = (_load(*part, name, y, classes, 1, state_budget) for part, y in zip(parts, labels, strict=True))
    return name, train_data, test_data, len(classes)


def top_activating(source: Source, layer: str, index: int, count: int) -> NDArray[np.int64]:
    """Ids of the samples that activate a filter most, by the sum of its positive activations over positions."""
    axis = _channel_axis(source.info[layer])
    rows = [np.take(batch.layers[layer], index, axis=axis).reshape(len(batch.ids), -1) for batch in source.iter([layer])]
    activation = np.concatenate([np.maximum(part, 0).sum(1) for part in rows])
    return np.asarray(source.ids[np.argsort(-activation, kind="stable")[:count]])


def _bootstrap_se(  # one call, above
    data: Sequence[LabelledActivations], filters: LayerFilters, alpha: float, bootstrap: int, seed: int
) -> dict[str, float]:
    """Standard deviations over resampled training and test samples, by the names of `summary`.

    Measures that no resampling changed have none, and ratios and variances of few elements, whose intervals undercover
    (docs/uncertainty.md), have none.
    """
    (fitted, labels, _), (x, y, _) = data
    k, f, p = filters.means.shape
    if bootstrap < 2 or bootstrap * k * k * f > _MAX_ELEMENTS or bootstrap * x.size > 20 * _MAX_ELEMENTS:
        return {}
    rng = np.random.default_rng(seed)
    if bootstrap * (fitted.size + len(labels) * k) * k > 20 * _MAX_ELEMENTS:
        return {}
    counts = np.bincount(y, minlength=k)
    multiplicities = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=bootstrap).astype(np.float64)
    flat = fitted.reshape(len(fitted), -1)
    heads = refitted(filters.weight.reshape(k, -1), flat, labels, multiplicities, alpha=alpha).reshape(bootstrap, k, f, p)
    summaries = []
    for head in heads:
        weight = np.zeros(len(y))
        for label in range(k):
            members = np.flatnonzero(y == label)
            weight[members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members))) / counts[label]
        summaries.append(clusters_of(_means(x, y, weight, k).reshape(k, f, p), head, filters.clusters.options).summary())
    with np.errstate(invalid="ignore"):
        deviations = {
            name: float(np.std([filters.get(name, np.nan) for filters in summaries], ddof=1)) for name in summaries[0]
        }
    return {
        name: value * few_groups(bootstrap)
        for name, value in deviations.items()
        if value > 0 and name in _RESAMPLED - _UNDERCOVERED
    }


def _table(filters: LayerFilters, errors: Mapping[str, float], note: str) -> list[dict[str, Any]]:
    """Rows of one layer."""
    rows: list[dict[str, Any]] = [
        {"metric": "layer_accuracy", "value": filters.accuracy, "se": filters.accuracy_se, "note": note},
    ]
    summary, with_empty = filters.clusters.summary(), filters.clusters.summary(count_empty=True)
    for metric, name in METRIC_OF.items():
        if name in summary:
            undefined = (
                "" if np.isfinite(summary[name]) else "no noise" if np.isinf(summary[name]) else "no filter with a label"
            )
            has_error = not errors or name in errors or name not in _RESAMPLED
            reason = "resampling underestimates it" if name in _UNDERCOVERED else "no resampling changed the value"
            missing = "" if has_error else f"no standard error: {reason}"
            notes = "; ".join(filter(None, [note, undefined, missing]))
            rows.append({"metric": metric, "value": summary[name], "se": errors.get(name, np.nan), "note": notes})
        if metric in _COUNT_EMPTY:
            rows.append({"metric": metric, "variant": "with empty filters", "value": with_empty[name], "note": note})
    rows.append({"metric": "places_per_filter", "value": float(filters.clusters.places)})
    return rows
