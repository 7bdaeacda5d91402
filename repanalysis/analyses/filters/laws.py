"""Laws of single filters: how error and label clusters depend on the number of labels, and on the width of a network.

Number of labels, for the fixed activations of one layer: the error of one head that chooses among k of its K labels, exact over
all subsets (`theory.label_subsets`); the error of heads refitted to random subsets of k labels, and the label clusters of these
heads. The papers instead retrain the network for every K; they report an error about linear in K, and clusters that hardly
change.

Width: error and noise per filter of networks with d filters, eps ~ d^-rho and n ~ d^-gamma (docs/filter_clusters.md, Formulas;
O. Tevet et al., Physica A 635, 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from annotated_doc import Doc
from annotated_types import Ge
from numpy.typing import NDArray
from tqdm.auto import tqdm

from probes.errors import DataError, UsageError, did_you_mean
from repanalysis.analyses.declaration import analysis
from repanalysis.analyses.filters.measures import METRIC_OF, LabelledActivations, class_means
from repanalysis.heads.clusters import ClusterOptions, clusters_of
from repanalysis.heads.fitting import HeadOptions
from repanalysis.heads.scoring import accuracy_of
from repanalysis.specs import Names, Read
from repanalysis.table import Table
from repanalysis.theory.label_subsets import beaten_by, error_by_labels, linear_fit, power_law

__all__ = ["against_labels", "against_width"]

CLUSTERS = ("clusters_per_filter", "cluster_size", "labels_per_filter", "noise_per_filter", "snr_pair")
_SIZES = 6


@analysis
def against_labels(
    train: LabelledActivations,
    test: LabelledActivations,
    *,
    sizes: Annotated[
        Sequence[int] | None,
        Doc("Number of labels, 2 or more; repeat it. Default six, 2 to all."),
        Read(list, Annotated[list[int], Ge(2)]),
        Names("--size"),
    ] = None,
    subsets: Annotated[int, Ge(1), Doc("Random subsets of labels of each size.")] = 5,
    classes: int | None = None,
    clusters: ClusterOptions = ClusterOptions(),  # noqa: B008  # frozen
    heads: HeadOptions = HeadOptions(),  # noqa: B008  # frozen
    run: str = "run",
    layer: str = "layer",
    seed: int = 0,
    progress: bool | None = None,
) -> Table:
    """Error and clusters of one layer against the number of labels.

    Parameters
    ----------
    train, test : LabelledActivations
        Activations and their classes, 0 to K - 1: `train` to fit heads to, `test` to measure them on; see `load_layer`.
    sizes : sequence of int, optional
        Numbers of labels, 2 to K; by default six, evenly spaced in their logarithm.
    subsets : int, default 5
        Random subsets of labels of each size; one of all K.
    classes : int, optional
        K; by default the largest class plus one.
    clusters, heads
        As for `filters`.
    run, layer : str
        Names of the run and of the layer in the table.
    seed : int, default 0
        Seed of the random subsets.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Returns
    -------
    Table
        `strength` is the number of labels. `error_rate` with variants "fixed head" (standard errors over samples) and
        "refitted heads" (over subsets); `clusters_per_filter`, `cluster_size`, `labels_per_filter`, `noise_per_filter` and
        `snr_pair` of the refitted heads. `error_slope`, `error_offset` and `error_r_squared` are those of a line through each
        error curve, where it has three points.

    Raises
    ------
    UsageError, DataError
        If a size is not in 2 to K, or there are no subsets.

    Notes
    -----
    A subset's heads are fitted to training samples of its labels and measured on test samples of its labels. Time: one head per
    subset.
    """
    x, y, _ = train
    x_test, y_test, _ = test
    k = classes or int(max(y.max(), y_test.max())) + 1
    n_labels = sorted(set(sizes or np.geomspace(2, k, _SIZES).round().astype(int).tolist()))
    if subsets < 1:
        raise UsageError(f"{subsets} subsets of labels; at least one is needed.")
    flat, flat_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
    fixed = heads.fit(flat, y, k)
    exact = error_by_labels(beaten_by(flat_test @ fixed.T, y_test), k, np.array(n_labels))
    base = {"run": run, "layer": layer, "perturbation": "labels", "n": len(y_test)}
    rows: list[dict[str, Any]] = [
        base | {"metric": "error_rate", "variant": "fixed head", "strength": r.labels, "value": r.error, "se": r.se}
        for r in exact.itertuples()
    ]
    draws = [(size, draw) for size in n_labels for draw in range(1 if size == k else subsets)]
    measured: dict[int, list[dict[str, float]]] = {}
    for size, draw in tqdm(draws, desc=run, unit=" heads", disable=None if progress is None else not progress):
        subset = np.sort(np.random.default_rng((seed, size, draw)).choice(k, size, replace=False))
        selected = _of_labels(train, subset)
        head = fixed if size == k else heads.fit(selected.x.reshape(len(selected.y), -1), selected.y, size)
        measured.setdefault(size, []).append(_measures(head, _of_labels(test, subset), size, clusters))
    rows += [base | row for row in _averages(measured)]
    for variant in ("fixed head", "refitted heads"):
        curve = [(row["strength"], row["value"]) for row in rows if row.get("variant") == variant]
        if len(curve) > 2:
            fit = linear_fit(*np.array(curve, np.float64).T)
            fitted = {"error_slope": fit.slope, "error_offset": fit.offset, "error_r_squared": fit.r_squared}
            rows += [base | {"metric": name, "variant": variant, "value": value} for name, value in fitted.items()]
            rows[-3]["se"] = fit.slope_se
    return Table.from_rows(rows, {run: {"sizes": n_labels, "places": int(x.shape[2]), "n_train": len(y)}})


def _of_labels(part: LabelledActivations, labels: NDArray[np.int64]) -> LabelledActivations:
    """The samples of some labels, renumbered from 0."""
    rows = np.flatnonzero(np.isin(part.y, labels))
    return LabelledActivations(part.x[rows], np.searchsorted(labels, part.y[rows]), part.ids[rows])


def _measures(head: NDArray[np.float64], test: LabelledActivations, size: int, options: ClusterOptions) -> dict[str, float]:
    """Error, with its standard error, and clusters of one subset of labels."""
    accuracy, se = accuracy_of(head, test.x.reshape(len(test.y), -1), test.y)
    means = class_means(test.x, test.y, size)
    summary = clusters_of(means, head.reshape(means.shape), options, fields=False).summary()
    clusters = {name: summary[METRIC_OF[name]] for name in CLUSTERS}
    return {"error_rate": 1 - accuracy, "error_rate se": se} | clusters


def _averages(measured: Mapping[int, Sequence[Mapping[str, float]]]) -> Iterator[dict[str, Any]]:
    """Rows of the averages over subsets of each size, with standard errors over subsets; of one subset, over samples."""
    for metric in ("error_rate", *CLUSTERS):
        for size, subsets in measured.items():
            values = np.array([subset[metric] for subset in subsets])
            se_over_samples = subsets[0].get(f"{metric} se", np.nan)
            yield {
                "metric": metric,
                "variant": "refitted heads" if metric == "error_rate" else "",
                "strength": size,
                "value": float(values.mean()),
                "se": float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else se_over_samples,
                "note": "" if np.isfinite(values).all() else "no noise, or no filter with a label, in some subset",
            }


@analysis
def against_width(table: Table, *, layer: str | None = None) -> Table:
    """Power laws of error and noise per filter against width, over networks of several widths.

    Parameters
    ----------
    table : Table
        Result of `filters.filters` for several runs (`Table.concat`), one per network.
    layer : str, optional
        The layer to measure; by default each run's last.

    Returns
    -------
    Table
        `strength` is the width d, the number of filters in the layer. Per run `error_rate` and `noise_per_filter`; over all,
        run "power law", `error_exponent` rho and `noise_exponent` gamma, with `error_factor`, `noise_factor` and
        `error_r_squared`, `noise_r_squared` of the logarithms: error = factor d^-rho. Widths without noise are left out.

    Raises
    ------
    UsageError
        If the table does not come from `filters.filters`, or lacks the layer.
    DataError
        If there are fewer than three widths.

    Examples
    --------
    >>> rows = [
    ...     {"run": f"w{d}", "layer": "relu", "metric": metric, "value": value}
    ...     for d in (8, 16, 32)
    ...     for metric, value in (
    ...         ("filters_per_layer", d),
    ...         ("layer_accuracy", 1 - d**-0.5),
    ...         ("noise_per_filter", 90 / d),
    ...     )
    ... ]
    >>> laws = against_width(Table.from_rows(rows)).select(run="power law").frame.set_index("metric")["value"]
    >>> laws[["error_exponent", "noise_exponent"]].round(6).to_dict()
    {'error_exponent': 0.5, 'noise_exponent': 1.0}
    """
    frame = table.frame[(table.frame["variant"] == "")]
    needed = {"filters_per_layer", "layer_accuracy", "noise_per_filter"}
    rows: list[dict[str, Any]] = []
    for run, group in frame.groupby("run", sort=False):
        if layer is not None and layer not in set(group["layer"]):
            raise UsageError(f"Run {run} has no layer {layer!r}.{did_you_mean(layer, group['layer'])}")
        measured_layer = layer or group.sort_values("order", kind="stable")["layer"].iloc[-1]
        measures = group[group["layer"] == measured_layer].set_index("metric")
        if missing := needed - set(measures.index):
            raise UsageError(f"Run {run} lacks {', '.join(sorted(missing))}; `repanalysis filters` writes such tables.")
        if not measures.index.is_unique:
            raise UsageError(f"Run {run} occurs twice; give each network's table once, from files of different names.")
        values, se, model, n = measures["value"], measures["se"], measures["model"].iloc[0], int(measures["n"].iloc[0])
        base = {"run": run, "model": model, "layer": measured_layer, "perturbation": "width", "n": n}
        base["strength"] = values["filters_per_layer"]
        rows.append(base | {"metric": "error_rate", "value": 1 - values["layer_accuracy"], "se": se["layer_accuracy"]})
        rows.append(base | {"metric": "noise_per_filter", "value": values["noise_per_filter"], "se": se["noise_per_filter"]})
    widths = {row["strength"] for row in rows}
    if len(widths) < 3:
        raise DataError(f"A power law needs three widths or more; these are {sorted(int(width) for width in widths)}.")
    for metric, short in (("error_rate", "error"), ("noise_per_filter", "noise")):
        points = [(row["strength"], row["value"]) for row in rows if row["metric"] == metric and row["value"] > 0]
        over_runs = {"run": "power law", "perturbation": "width", "layer": layer or "last"}
        if len({d for d, _ in points}) < 3:
            note = f"fewer than three widths with any {short}"
            rows += [over_runs | {"metric": f"{short}_{name}", "value": np.nan, "note": note} for name in _FITTED]
            continue
        fit = power_law(*np.array(points, np.float64).T)
        for name, value in zip(_FITTED, (-fit.slope, float(np.exp(fit.offset)), fit.r_squared), strict=True):
            fit_se = fit.slope_se if name == "exponent" else np.nan
            rows.append(over_runs | {"metric": f"{short}_{name}", "value": value, "se": fit_se, "n": len(points)})
    return Table.from_rows(rows, {"power law": {"runs": list(table.provenance)}, **table.provenance})


_FITTED = ("exponent", "factor", "r_squared")
