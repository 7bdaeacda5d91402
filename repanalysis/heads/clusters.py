r"""Label clusters of single filters: the outputs that a filter raises on its own.

With class-mean activations A[i, f, p] (label i, filter f, position p) and head weights W[j, f, p], the field of filter f is

    M^f[i, j] = sum_p W[j, f, p] A[i, f, p],     B^f[i, j] = 1 where M^f[i, j] > theta max M^f,

rows true labels, columns outputs. D_f = {l : B^f[l, l] = 1} are the labels of the filter. Clusters are sets of labels in D_f
whose square in B^f is all ones. Greedy first fit finds them: each label joins the first cluster that stays complete, or starts
a new one. Entries above the threshold outside clusters are noise (docs/filter_clusters.md, Formulas; Y. Meir et al., Scientific
Reports 14, 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
from annotated_doc import Doc
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray
from scipy.linalg import blas

from probes.errors import DataError, UsageError
from repanalysis._checks import one_of

__all__ = ["ClusterOptions", "FilterClusters", "Gauge", "Order", "clusters_of", "display_order", "field_of", "first_fit"]

Order = Literal["label", "degree"]
Gauge = Literal["center", "none"]

_CHUNK_BYTES = 64 << 20
_FRAGILE = 1e-5
_EMPTY = 1e-12


@dataclass(frozen=True)
class ClusterOptions:
    """Options of `clusters_of`.

    Attributes
    ----------
    theta : float
        Threshold, as a share of the largest entry of the field, in (0, 1).
    order : {"label", "degree"}
        Order in which first fit accepts the labels: ascending, or by falling degree. It changes the clusters, not their labels.
    gauge : {"center", "none"}
        Whether the mean weight over outputs is subtracted first. This changes no prediction of the head, but shifts whole rows
        of the fields.
    """

    theta: Annotated[float, Doc("Threshold, as a share of the largest entry of a field.")] = 0.3
    order: Annotated[Order, Doc("Order in which labels join clusters: label or degree.")] = "label"
    gauge: Annotated[Gauge, Doc("center subtracts the mean weight over outputs; none keeps weights as they are.")] = "center"

    def __post_init__(self) -> None:
        one_of("order", self.order, get_args(Order))
        one_of("gauge", self.gauge, get_args(Gauge))
        if not 0 < self.theta < 1:
            raise UsageError(f"theta is {self.theta}; it must lie between 0 and 1.")


@dataclass(frozen=True, eq=False)
class FilterClusters:
    """Clusters of K labels for F filters.

    Attributes
    ----------
    maximum : (F,) float64
        mu_f, the largest entry of each field; 0 for empty filters, whose entries are all within rounding.
    cluster : (F, K) int64
        Cluster of each label, -1 outside D_f.
    clusters, served, noise, noise_served, internal : (F,) int64
        Per filter: k_f clusters; nu_f labels in D_f; n_f elements of noise, and those of them in columns of D_f; I_f
        off-diagonal elements inside clusters.
    votes : (K, K) int64
        T[i, j], filters with B^f[i, j] = 1.
    votes_internal : (K, K) int64
        Filters with i and j in the same cluster; the diagonal is S_i.
    fields : dict of str to (K, K) float64
        Sums over filters of "unit" fields (divided by their maximum) and "raw" fields: `inside` (i and j in the same cluster),
        `outside` (noise) and `rest` (below the threshold): "raw inside", "unit rest", ... Empty with fields=False.
    places : int
        P, positions per filter.
    fragile : int
        Elements within a relative 1e-5 of the threshold: another order of summation may change them.
    options : ClusterOptions
        The options used.
    """

    maximum: Float64[np.ndarray, " F"]
    cluster: Int64[np.ndarray, "F K"]
    clusters: Int64[np.ndarray, " F"]
    served: Int64[np.ndarray, " F"]
    noise: Int64[np.ndarray, " F"]
    noise_served: Int64[np.ndarray, " F"]
    internal: Int64[np.ndarray, " F"]
    votes: Int64[np.ndarray, "K K"]
    votes_internal: Int64[np.ndarray, "K K"]
    fields: dict[str, NDArray[np.float64]]
    places: int
    fragile: int
    options: ClusterOptions = ClusterOptions()

    @property
    def serves(self) -> Bool[np.ndarray, "F K"]:
        """D, the labels of each filter; also the mask of a pruned head."""
        return np.asarray(self.cluster >= 0)

    def summary(self, *, count_empty: bool = False) -> dict[str, float]:
        """Averages over the layer.

        Parameters
        ----------
        count_empty : bool, default False
            Whether filters without a cluster count as zeros.

        Returns
        -------
        dict
            `clusters`, N_c per filter; `cluster_size`, C_s over all clusters of the layer; `labels` nu, `noise` n,
            `noise_served` and `internal` I per filter; `signal` S, filters per label; `snr_pair`, (K - 1) nu / (I + n), votes
            for a label's own output over those for one other output, and `snr_total`, nu / (I + n), over all others together;
            `snr_internal` and `snr_external`, with I or n alone; `snr_field_unit` and `snr_field_raw`, with fields in place of
            votes; `kept`, share of the head's weights in the mask D; `orphans`, labels in no D_f; `signal_cv`, standard
            deviation of S over labels, over its mean; `dispersion`, variance of S over that of random labels; `margin`, the
            smallest S_i minus the votes of i's strongest rival; `empty`, filters without a cluster. NaN if no filter has a
            cluster.
        """
        f, k = self.cluster.shape
        has_cluster = self.clusters > 0
        n_filters = f if count_empty else int(has_cluster.sum())
        counted = np.ones(f, bool) if count_empty else has_cluster
        averages = {"filters": float(f), "empty": float(f - has_cluster.sum())}
        averages |= {"places": float(self.places), "fragile": float(self.fragile)}
        if not has_cluster.any():
            return averages | dict.fromkeys(_NAMES, np.nan)
        total = {
            "clusters": self.clusters, "labels": self.served, "noise": self.noise, "noise_served": self.noise_served,
            "internal": self.internal,
        }  # fmt: skip
        averages |= {name: float(values[counted].sum()) / n_filters for name, values in total.items()}
        averages["cluster_size"] = float(self.served.sum() / self.clusters.sum())
        signal = np.diagonal(self.votes).astype(np.float64)
        inside, outside = float(self.internal.sum()), float(self.noise.sum())
        served = float(self.served.sum())
        averages |= {
            "signal": float(signal.mean()), "snr_pair": _ratio((k - 1) * served, inside + outside),
            "snr_total": _ratio(served, inside + outside), "snr_internal": _ratio((k - 1) * served, inside),
            "snr_external": _ratio((k - 1) * served, outside), "kept": served / (f * k),
            "orphans": float((signal == 0).sum()), "signal_cv": float(signal.std() / signal.mean()),
        }  # fmt: skip
        share = served / (f * k)
        averages["dispersion"] = _ratio(float(signal.var()), f * share * (1 - share))
        rivals = self.votes - np.diag(np.diagonal(self.votes) + 1)  # -1 where there is no other label
        averages["margin"] = float((signal - rivals.max(1)).min())
        for kind in ("unit", "raw"):
            if f"{kind} inside" in self.fields:
                inner, outer = self.fields[f"{kind} inside"], self.fields[f"{kind} outside"]
                off = float(inner.sum() - np.trace(inner) + outer.sum())
                rounding = _ROUNDING * float(np.abs(inner).sum() + np.abs(outer).sum())
                averages[f"snr_field_{kind}"] = _ratio((k - 1) * float(np.trace(inner)), off if abs(off) > rounding else 0.0)
        return averages


_NAMES = (
    "clusters", "labels", "noise", "noise_served", "internal", "cluster_size", "signal", "snr_pair", "snr_total",
    "snr_internal", "snr_external", "kept", "orphans", "signal_cv", "dispersion", "margin",
)  # fmt: skip


_ROUNDING = 1e-12  # a sum of fields below this share of the sum of their absolute values is 0


def _ratio(a: float, b: float) -> float:
    """A / b; infinite for b = 0, NaN for 0 / 0."""
    return a / b if b else np.inf if a else np.nan


def clusters_of(
    means: NDArray[Any],
    weights: NDArray[Any],
    options: ClusterOptions = ClusterOptions(),  # frozen
    *,
    fields: bool = True,
) -> FilterClusters:
    """Label clusters, noise and votes of every filter.

    Parameters
    ----------
    means : (K, F, P) array
        Mean activations of the samples of each label.
    weights : (K, F, P) array
        Weights of the head, one output per label. Offsets belong to no filter and are not used.
    options : ClusterOptions
        Threshold, order and gauge.
    fields : bool, default True
        Whether to sum fields in addition to votes.

    Returns
    -------
    FilterClusters
        Numbers per filter, and sums over filters.

    Raises
    ------
    UsageError, DataError
        If shapes don't match, there are fewer than two labels, or a number is not finite.

    Notes
    -----
    Time F K^2 (P + 20), memory 64 MB and a few K x K matrices: fields are computed for a few filters at a time.
    """
    if means.ndim != 3 or means.shape != weights.shape:
        raise UsageError(f"Means {means.shape} and weights {weights.shape} must both be labels x filters x places.")
    k, f, p = means.shape
    if k < 2 or not f:
        raise DataError(f"{k} label{'s' * (k != 1)} and {f} filters: clusters need at least two labels and a filter.")
    if not (np.isfinite(means).all() and np.isfinite(weights).all()):
        raise DataError("Activations or head weights hold NaN or infinite values.")
    means, weights = means.astype(np.float64), weights.astype(np.float64)
    if options.gauge == "center":
        weights = weights - weights.mean(0)
    chunk = max(1, _CHUNK_BYTES // (8 * k * k))
    tops = np.zeros(f)
    per = {name: np.zeros(f, np.int64) for name in ("clusters", "served", "noise", "noise_served", "internal")}
    cluster = np.full((f, k), -1, np.int64)
    votes, inner = np.zeros(k * k, np.int64), np.zeros(k * k, np.int64)
    sums = {f"{kind} {part}": np.zeros(k * k) for kind in ("unit", "raw") for part in ("inside", "outside")} if fields else {}
    fragile = 0
    for rows in _chunks(f, chunk):
        field = _field(means, weights, rows)
        top = field.max(axis=(1, 2))
        # Entries that are 0 in exact arithmetic are rounding errors of this size.
        rounding = _EMPTY * p * np.abs(means[:, rows]).max(axis=(0, 2)) * np.abs(weights[:, rows]).max(axis=(0, 2))
        top[top <= rounding] = 0.0
        limit = np.where(top > 0, options.theta * top, np.inf)[:, None, None]
        above = field > limit
        fragile += int((field > limit * (1 - _FRAGILE)).sum() - (field > limit * (1 + _FRAGILE)).sum())
        numbers = first_fit(above, order=options.order)
        index, i, j = above.nonzero()
        same = (numbers[index, i] == numbers[index, j]) & (numbers[index, i] >= 0)
        cell, squares = i * k + j, np.bincount(index[same], minlength=len(top))
        tops[rows], cluster[rows] = top, numbers
        per["clusters"][rows], per["served"][rows] = numbers.max(1) + 1, (numbers >= 0).sum(1)
        per["noise"][rows] = np.bincount(index[~same], minlength=len(top))
        per["noise_served"][rows] = np.bincount(index[~same], numbers[index, j][~same] >= 0, minlength=len(top))
        per["internal"][rows] = squares - per["served"][rows]
        votes += np.bincount(cell, minlength=k * k)
        inner += np.bincount(cell[same], minlength=k * k)
        if fields:
            raw = field[index, i, j]
            for kind, values in (("raw", raw), ("unit", raw / top[index])):
                sums[f"{kind} inside"] += np.bincount(cell[same], values[same], minlength=k * k)
                sums[f"{kind} outside"] += np.bincount(cell[~same], values[~same], minlength=k * k)
    square = {name: values.reshape(k, k) for name, values in sums.items()}
    if fields:  # all fields sum to the mean logits; the rest is what is neither inside nor outside
        scale = np.where(tops > 0, 1 / np.where(tops > 0, tops, 1.0), 0.0)
        for kind, factor in (("raw", np.ones(f)), ("unit", scale)):
            left, right = (means * factor[:, None]).reshape(k, -1), weights.reshape(k, -1)
            total = blas.dgemm(1.0, left.T, right.T, trans_a=1)
            square[f"{kind} rest"] = total - square[f"{kind} inside"] - square[f"{kind} outside"]
    return FilterClusters(
        tops, cluster, **per, votes=votes.reshape(k, k), votes_internal=inner.reshape(k, k), fields=square, places=p,
        fragile=fragile, options=options,
    )  # fmt: skip


def field_of(
    means: Float[np.ndarray, "K F P"], weights: Float[np.ndarray, "K F P"], index: int, *, gauge: Gauge = "center"
) -> Float64[np.ndarray, "K K"]:
    """The field M^f of one filter, for plots."""
    weights = weights - weights.mean(0) if gauge == "center" else weights
    return np.asarray(_field(means.astype(np.float64), weights.astype(np.float64), slice(index, index + 1))[0])


def _chunks(f: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, f)) for start in range(0, f, size))


def _field(means: NDArray[np.float64], weights: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
    """M^f of some filters, (f, K, K)."""
    k, _, p = means.shape
    fields = np.empty((rows.stop - rows.start, k, k))
    for i, index in enumerate(range(rows.start, rows.stop)):
        if p == 1:
            np.multiply(means[:, index], weights[:, index].T, out=fields[i])
        else:
            fields[i] = blas.dgemm(1.0, means[:, index].T, weights[:, index].T, trans_a=1)
    return fields


def first_fit(above: Bool[np.ndarray, "f K K"], *, order: str = "label") -> Int64[np.ndarray, "f K"]:
    """Clusters of labels by greedy first fit, for several filters at once.

    Parameters
    ----------
    above : (f, K, K) bool
        B.
    order : {"label", "degree"}
        Order in which labels are taken.

    Returns
    -------
    (f, K) int64
        Cluster of each label, numbered in the order in which they start; -1 where B[l, l] = 0.

    Notes
    -----
    Completing one cluster after the other gives the same result as placing one label after the other, since whether a cluster
    accepts a label depends on earlier labels alone.

    Examples
    --------
    >>> path_and_triangle = np.eye(4, dtype=bool)
    >>> for a, b in ((0, 1), (1, 2), (1, 3), (2, 3)):
    ...     path_and_triangle[[a, b], [b, a]] = True
    >>> first_fit(path_and_triangle[None]).tolist(), first_fit(path_and_triangle[None], order="degree").tolist()
    ([[0, 0, 1, 1]], [[1, 0, 0, 0]])
    """
    f, k, _ = above.shape
    served = np.diagonal(above, axis1=1, axis2=2)
    both = above & above.transpose(0, 2, 1) & served[:, :, None] & served[:, None, :]
    label_order = np.broadcast_to(np.arange(k), (f, k))
    if order == "degree":
        label_order = np.argsort(-both.sum(2), axis=1, kind="stable")
    cluster = np.full((f, k), -1, np.int64)
    accepts = np.zeros((f, 4, k), bool)  # labels that each cluster would accept
    all_filters = np.arange(f)
    for step in range(k):
        label = label_order[:, step]
        is_served = served[all_filters, label]
        if not is_served.any():
            continue
        accepting = accepts[all_filters, :, label]
        target = np.where(accepting.any(1), accepting.argmax(1), -1)
        next_cluster = cluster.max(1) + 1
        target = np.where(target >= 0, target, next_cluster)
        if int(target[is_served].max()) >= accepts.shape[1]:
            accepts = np.concatenate([accepts, np.zeros_like(accepts)], axis=1)
        new = is_served & (target == next_cluster)
        accepts[all_filters[new], target[new]] = both[all_filters[new], label[new]]
        old = is_served & ~new
        accepts[all_filters[old], target[old]] &= both[all_filters[old], label[old]]
        cluster[all_filters[is_served], label[is_served]] = target[is_served]
    return cluster


def display_order(cluster: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " K"]:
    """Labels ordered by cluster, the largest first, then labels outside D: clusters become blocks on the diagonal.

    Examples
    --------
    >>> display_order(np.array([0, 1, -1, 1])).tolist()
    [1, 3, 0, 2]
    """
    sizes = np.bincount(cluster[cluster >= 0], minlength=1)
    rank = np.where(cluster >= 0, -sizes[np.maximum(cluster, 0)], 1)
    return np.lexsort((np.arange(len(cluster)), cluster, rank)).astype(np.int64)
