"""What single filters know, layer by layer: a head per layer, its accuracy, and the label clusters of its filters.

For every layer a linear head is fitted to training activations; test activations give its accuracy and the class means with
which each filter's field is made (`heads/clusters.py`; docs/filter_clusters.md, Formulas). Rows that a
head was fitted on are never measured.
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
_MOVING = {*METRIC_OF.values()} - {"filters", "fragile"}  # what resampling may move
_SHORT = {"snr_external", "snr_field_unit", "snr_field_raw", "dispersion"}  # whose intervals held less than nine times in ten
_COUNT_EMPTY = ("clusters_per_filter", "labels_per_filter", "noise_per_filter")
_COMPARED = 20  # samples whose activations tell whether two files hold the same ones
_RESAMPLED = 10**8  # elements of all resampled fields, above which errors are not estimated


Part = tuple[Source, NDArray[np.int64]]  # rows of a source


@dataclass(frozen=True, eq=False)
class LayerFilters:
    """One layer's head and clusters.

    Attributes
    ----------
    weight : (K, F, P) float64
        The head.
    means : (K, F, P) float64
        Test activations' class means.
    accuracy, accuracy_se : float
        On test activations.
    clusters : FilterClusters
        Clusters, noise and votes.
    labels : (K,) int64
        Which class each row is.
    """

    weight: NDArray[np.float64]
    means: NDArray[np.float64]
    accuracy: float
    accuracy_se: float
    clusters: FilterClusters
    labels: NDArray[np.int64]


def groups_by_pattern(texts: Sequence[str]) -> dict[str, int]:
    """Numbers of groups by layer pattern, from `PATTERN=COUNT`.

    Examples
    --------
    >>> groups_by_pattern(["*attn*=3"])
    {'*attn*': 3}
    """
    groups = {}
    for text in texts:
        pattern, equals, count = text.rpartition("=")
        if not equals or not count.isdigit() or int(count) < 1:
            raise UsageError(f"{text!r} is no PATTERN=COUNT, such as '*attn*=3'.")
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
        Doc("Channels that count as one filter, PATTERN=COUNT, such as '*attn*=3' heads."),
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
        Activations to fit heads on, and others of the same layers to measure with. Without `test`, the splits "train" and
        "test" of the first; without splits, halves of it, drawn by id: those
        that the read-out metrics fit and score on.
    layers : str or sequence of str, optional
        Which; by default all.
    clusters : ClusterOptions
        Threshold, order and gauge of clusters.
    heads : HeadOptions
        Solver and penalty of the layers' heads.
    groups : mapping of pattern to int, optional
        Layers whose channels come in so many groups that count as one filter each, such as attention heads: their nodes' fields
        are added before they are looked at.
    bootstrap : int, default 20
        Resamplings of the training samples, to which the head moves by one Newton step, and of the test samples within their
        labels. Their spread is the standard error; there is none where it would take minutes, or where nothing moved.
    run : str, optional
        What the table calls the run; by default after the training file.
    seed : int, default 0
        Of resampling and `sgd`.
    state_budget : int, default 4 GiB
        Bytes of a layer's activations that may be in memory.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    strict : bool, default False
        Whether to stop at the first layer that cannot be analyzed. Otherwise its values are NaN with the reason in their note,
        the table's `failures` names it, and a warning says so.

    Returns
    -------
    Result
        `table`: per layer `layer_accuracy` and what `FilterClusters.summary` says; variant "with empty filters" where these
        count as zeros. `n` is the number of test samples. Where the head is no better than chance the note says so.
        `artifacts`: heads and clusters, a `LayerFilters` per layer.

    Raises
    ------
    UsageError, DataError
        If files share no layer, rows are the same in both, samples have no labels, or there is one label only; with `strict`,
        if a layer holds NaN or inf, has different shapes in both files, or does not fit into the budget.

    Warns
    -----
    LeftOutWarning
        If layers could not be analyzed.

    Notes
    -----
    A filter is a channel; its P places are those that were kept. With one place per filter fields are of rank one, and numbers
    are not comparable with those of layers with more.
    """
    parts = _parts(train, test)
    first, last = parts[0][0], parts[1][0]
    both = {layer: info for layer, info in first.info.items() if layer in last.info}
    if not both:
        raise UsageError(f"{first.name} and {last.name} share no layer; the second has {', '.join(last.layers[:5])}.")
    selected = select(layers, both, f"{first.name} and {last.name}")
    labels = [_labels(*part) for part in parts]
    classes, missing = _common(labels)
    measuring = _Measuring(parts, labels, classes, clusters, heads, dict(groups or {}), bootstrap, seed, state_budget)
    name = run or first.name.rpartition("/")[2].partition(".")[0]
    rows: list[dict[str, Any]] = []
    measured: dict[str, LayerFilters] = {}
    failures: dict[str, str] = {}
    for layer in tqdm(selected, desc=name, unit=" layers", disable=None if progress is None else not progress):
        info = first.info[layer]
        base = {
            "run": name, "model": str(first.attrs.get("model", "")), "layer": layer, "order": info.order, "depth": info.depth,
            "n": int(np.isin(labels[1], classes).sum()),
        }  # fmt: skip
        try:
            measured[layer], note, errors = measuring(layer)
        except UsageError:  # a mistake in what was asked for is none of the layer's
            raise
        except Exception as error:
            if strict:
                error.add_note(f"layers='!{layer}', --layers '!{layer}' leaves it out")
                raise
            failures[layer] = reason_of(error)
            rows.append(base | {"metric": "layer_accuracy", "value": np.nan, "note": failures[layer]})
            continue
        note = "; ".join(filter(None, [note, f"labels {missing} are missing in one part" if missing else ""]))
        rows += [base | row for row in _table(measured[layer], errors, note)]
    facts: dict[str, Any] = {
        "source": first.name, "test": last.name, "model": str(first.attrs.get("model", "")),
        "places": {name: layer.clusters.places for name, layer in measured.items()},
    }  # fmt: skip
    table = Table.from_rows(_with_all_metrics(rows, failures), {name: facts | ({"failures": failures} if failures else {})})
    if failures:
        warnings.warn(f"{table.failure}; what is missing is NaN.", LeftOutWarning, stacklevel=3)
    return Result(table, measured)


@dataclass(frozen=True)
class _Measuring:
    """Fits and measures one layer after another."""

    parts: Sequence[Part]
    labels: Sequence[NDArray[np.int64]]
    classes: NDArray[np.int64]
    clusters: ClusterOptions
    heads: HeadOptions
    groups: Mapping[str, int]
    bootstrap: int
    seed: int
    state_budget: int

    def __call__(self, layer: str) -> tuple[LayerFilters, str, dict[str, float]]:
        """A layer's head and clusters, a note, and standard errors by name of `summary`."""
        infos = [source.info[layer] for source, _ in self.parts]
        shapes = infos[0].source_shape, infos[1].source_shape
        if shapes[0] and shapes[0] != shapes[1]:
            raise DataError(f"Layer {layer} is {shapes[0]} in training and {shapes[1]} in test data.")
        kinds = [infos[0].module_type]
        grouped = next((count for pattern, count in self.groups.items() if matches(pattern, layer, kinds)), 1)
        data = [
            _rows(*part, layer, own, self.classes, grouped, self.state_budget)
            for part, own in zip(self.parts, self.labels, strict=True)
        ]
        head = _head(data[0], len(self.classes), self.heads, self.seed)
        filters, note = _measured(head, data[1], self.classes, self.clusters)
        return filters, note, _bootstrap_se(data, filters, self.heads.alpha, self.bootstrap, self.seed)


def _with_all_metrics(rows: Sequence[dict[str, Any]], failures: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows; a layer that failed is undefined in every metric that other layers have, so that curves have a gap there."""
    keys = dict.fromkeys((row["metric"], row.get("variant", "")) for row in rows)
    return [
        row | ({"metric": metric, "variant": variant} if row["layer"] in failures else {})
        for row in rows
        for metric, variant in (keys if row["layer"] in failures else [("", "")])
    ]


def _parts(*sources: Source | str | PathLike[str] | None) -> list[Part]:
    """What to fit on and what to measure with, as rows of sources."""
    opened = [source if isinstance(source, Source) else probes.open(source) for source in sources if source is not None]
    if len(opened) == 2:
        _refuse_overlap(*opened)
        return [(source, np.arange(len(source))) for source in opened]
    (source,) = opened
    splits = None if source.split is None else np.asarray(source.split)
    if splits is not None and {"train", "test"} <= set(splits.tolist()):
        return [(source, np.flatnonzero(splits == split)) for split in ("train", "test")]
    half = fitted_on(source.ids)
    return [(source, np.flatnonzero(selected)) for selected in (half, ~half)]


def _refuse_overlap(first: Source, second: Source) -> None:
    """Raise where both hold the same samples, or come from different weights."""
    weights = [str(one.attrs.get("weights_sha256", "")) for one in (first, second)]
    if all(weights) and weights[0] != weights[1]:
        raise DataError(f"{first.name} and {second.name} were recorded with different weights; extract both with the same.")
    shared = np.intersect1d(first.ids, second.ids)[:_COMPARED]
    layer = next((name for name in reversed(first.layers) if name in second.info), None)
    if not len(shared) or layer is None:
        return
    rows = [np.flatnonzero(np.isin(one.ids, shared)) for one in (first, second)]
    one, other = (
        source.take(layer, own)[np.argsort(source.ids[own])] for source, own in zip((first, second), rows, strict=True)
    )
    if one.shape == other.shape and np.array_equal(one, other):
        raise UsageError(
            f"{first.name} and {second.name} hold the same samples: heads must not be measured on what they were fitted on; "
            f"give activations of other samples."
        )


def _labels(source: Source, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if source.labels is None:
        instead = "has continuous targets and" if source.targets is not None else "has"
        raise DataError(f"{source.name} {instead} no labels; filters are looked at by what they say of each label.")
    return source.labels[rows]


def _common(labels: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], list[int]]:
    """Labels of both parts, ascending, and those of one alone."""
    present = [set(own.tolist()) - set(IGNORED) for own in labels]
    shared = sorted(present[0] & present[1])
    if len(shared) < 2:
        raise DataError(f"{len(shared)} labels are in both parts; heads and clusters need at least two.")
    return np.array(shared, np.int64), sorted(present[0] ^ present[1])


def _channels(info: LayerInfo) -> int:
    """Which axis counts the filters."""
    return info.dims.index("channel") if "channel" in info.dims else 1


def _rows(  # noqa: PLR0917  # one call, above
    source: Source,
    rows: NDArray[np.int64],
    layer: str,
    labels: NDArray[np.int64],
    classes: NDArray[np.int64],
    groups: int,
    budget: int,
) -> LabelledActivations:
    """Activations (n, F, P) of the known labels, their labels as 0 to K - 1, and their ids."""
    info = source.info[layer]
    selected = np.isin(labels, classes)
    sample = source.take(layer, rows[:1])
    need = int(selected.sum()) * sample.nbytes
    if need > budget:
        shape = "x".join(map(str, sample.shape[1:]))
        raise DataError(
            f"Layer {layer} ({shape}) of {int(selected.sum())} samples takes {need / 2**30:.1f} GiB, and {budget / 2**30:.1f} "
            f"are allowed: extract it with --pool '{layer}=grid:4', or look at other layers."
        )
    x = source.take(layer, rows[selected]) if len(rows) < len(source) or not selected.all() else source[layer]
    x = np.moveaxis(x, _channels(info), 1) if x.ndim > 2 else x
    x = x.reshape(len(x), x.shape[1], -1)
    if groups > 1:
        if x.shape[1] % groups:
            raise UsageError(f"The {x.shape[1]} channels of {layer} are no {groups} equal groups.")
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


def _measured(
    weight: NDArray[np.float64], test: LabelledActivations, classes: NDArray[np.int64], options: ClusterOptions
) -> tuple[LayerFilters, str]:
    """Accuracy and clusters of one layer."""
    k = len(weight)
    share, error = accuracy_of(weight.reshape(k, -1), test[0].reshape(len(test[0]), -1), test[1])
    chance = f"the head's accuracy {share:.3f} is no better than chance {1 / k:.3f}"
    note = "" if above_chance(share, error, k) else f"uninformative: {chance}"
    means = class_means(test.x, test.y, k)
    clusters = clusters_of(means, weight, options)
    return LayerFilters(weight, means, share, error, clusters, classes), note


def class_means(x: NDArray[Any], y: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Mean activations of each label, (K, F, P); 0 for a label without samples."""
    return _means(x, y, 1 / np.bincount(y, minlength=k)[y], k).reshape(k, *x.shape[1:])


def _means(x: NDArray[Any], y: NDArray[np.int64], weight: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Weighted sums of the rows of each label, in float64 and without a copy of x."""
    flat = x.reshape(len(x), -1)
    chooser = sparse.csr_array((weight, (y, np.arange(len(y)))), shape=(k, len(y)))
    sums = np.zeros((k, flat.shape[1]))
    step = max(1, (32 << 20) // (8 * flat.shape[1]))
    for start in range(0, len(flat), step):
        sums += chooser[:, start : start + step] @ flat[start : start + step].astype(np.float64)
    return sums


def load_layer(
    train: Source | str | PathLike[str],
    test: Source | str | PathLike[str] | None = None,
    *,
    layer: str | None = None,
    state_budget: int = 4 << 30,
) -> tuple[str, LabelledActivations, LabelledActivations, int]:
    """One layer's activations, labels and ids, to fit on and to measure with; its name first, K last.

    Parameters
    ----------
    train, test
        As for `filters`.
    layer : str, optional
        By default the last.
    state_budget : int, default 4 GiB
        Bytes that the activations may take.

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
    first, last = (_rows(*part, name, own, classes, 1, state_budget) for part, own in zip(parts, labels, strict=True))
    return name, first, last, len(classes)


def top_activating(source: Source, layer: str, index: int, count: int) -> NDArray[np.int64]:
    """Ids of the samples that drive a filter most: by the sum of its positive activations over places."""
    axis = _channels(source.info[layer])
    rows = [np.take(batch.layers[layer], index, axis=axis).reshape(len(batch.ids), -1) for batch in source.iter([layer])]
    strength = np.concatenate([np.maximum(part, 0).sum(1) for part in rows])
    return np.asarray(source.ids[np.argsort(-strength, kind="stable")[:count]])


def _bootstrap_se(  # one call, above
    data: Sequence[LabelledActivations], filters: LayerFilters, alpha: float, bootstrap: int, seed: int
) -> dict[str, float]:
    """Standard deviations over resampled training and test samples, by name of `summary`.

    None of what did not move, nor of ratios and variances of few elements, whose intervals did not hold (docs/uncertainty.md).
    """
    (fitted, labels, _), (x, y, _) = data
    k, f, p = filters.means.shape
    if bootstrap < 2 or bootstrap * k * k * f > _RESAMPLED or bootstrap * x.size > 20 * _RESAMPLED:
        return {}
    rng = np.random.default_rng(seed)
    if bootstrap * (fitted.size + len(labels) * k) * k > 20 * _RESAMPLED:
        return {}
    counts = np.bincount(y, minlength=k)
    times = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=bootstrap).astype(np.float64)
    flat = fitted.reshape(len(fitted), -1)
    heads = refitted(filters.weight.reshape(k, -1), flat, labels, times, alpha=alpha).reshape(bootstrap, k, f, p)
    summaries = []
    for head in heads:
        weight = np.zeros(len(y))
        for label in range(k):
            mine = np.flatnonzero(y == label)
            weight[mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine))) / counts[label]
        summaries.append(clusters_of(_means(x, y, weight, k).reshape(k, f, p), head, filters.clusters.options).summary())
    with np.errstate(invalid="ignore"):
        spread = {name: float(np.std([filters.get(name, np.nan) for filters in summaries], ddof=1)) for name in summaries[0]}
    return {name: value * few_groups(bootstrap) for name, value in spread.items() if value > 0 and name in _MOVING - _SHORT}


def _table(filters: LayerFilters, spread: Mapping[str, float], note: str) -> list[dict[str, Any]]:
    """Rows of one layer."""
    rows: list[dict[str, Any]] = [
        {"metric": "layer_accuracy", "value": filters.accuracy, "se": filters.accuracy_se, "note": note},
    ]
    summary, every = filters.clusters.summary(), filters.clusters.summary(count_empty=True)
    for metric, name in METRIC_OF.items():
        if name in summary:
            undefined = (
                "" if np.isfinite(summary[name]) else "no noise" if np.isinf(summary[name]) else "no filter serves a label"
            )
            has_error = not spread or name in spread or name not in _MOVING
            why = "resampling gives too little" if name in _SHORT else "no resampling moved it"
            still = "" if has_error else f"no standard error: {why}"
            notes = "; ".join(filter(None, [note, undefined, still]))
            rows.append({"metric": metric, "value": summary[name], "se": spread.get(name, np.nan), "note": notes})
        if metric in _COUNT_EMPTY:
            rows.append({"metric": metric, "variant": "with empty filters", "value": every[name], "note": note})
    rows.append({"metric": "places_per_filter", "value": float(filters.clusters.places)})
    return rows
