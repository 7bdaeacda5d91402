"""Heads and filter clusters computed in loops from their definitions: the oracles of tests of filters, laws and pruning."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

__all__ = ["class_means", "greedy_clusters", "head", "serves", "share_right", "summary"]


def head(x: np.ndarray, y: np.ndarray, k: int, alpha: float = 1e-3) -> np.ndarray:
    """Scikit-learn's logistic regression without offset, (K, d); for two classes the rows are -w/2 and w/2 of the fitted w."""
    strength = 1 / (alpha * len(x))
    penalty = strength * (2 if k == 2 else 1)  # w and -w cost twice |w|^2, and their difference is 2 w
    model = LogisticRegression(C=penalty, fit_intercept=False, tol=1e-10, max_iter=100_000)
    weights = model.fit(np.asarray(x, np.float64), y).coef_
    return np.concatenate([-weights / 2, weights / 2]) if k == 2 else weights


def share_right(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Share of rows whose largest output is that of their label."""
    return float(np.mean([int(np.argmax(weights @ row)) == label for row, label in zip(x, y, strict=True)]))


def class_means(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Mean of the samples of each label."""
    return np.stack([x[y == label].astype(np.float64).mean(axis=0) for label in range(k)])


def greedy_clusters(above: np.ndarray) -> list[list[int]]:
    """The reference algorithm: seed, scan, close, repeat."""
    unassigned = [label for label in range(len(above)) if above[label, label]]
    clusters = []
    while unassigned:
        cluster = [unassigned[0]]
        for label in unassigned[1:]:
            candidate = [*cluster, label]
            if above[np.ix_(candidate, candidate)].all():
                cluster = candidate
        unassigned = [label for label in unassigned if label not in cluster]
        clusters.append(cluster)
    return clusters


def _fields(means: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """M^f[i, j] = sum_p means[i, f, p] (w[j, f, p] - its mean over outputs)."""
    centred = weights - weights.mean(axis=0)
    return [means[:, f] @ centred[:, f].T for f in range(means.shape[1])]


def serves(means: np.ndarray, weights: np.ndarray, theta: float = 0.3) -> np.ndarray:
    """Which labels each filter serves, (F, K): entries of the diagonal above theta of the largest one of the field."""
    return np.stack([np.diagonal(field) > theta * field.max() for field in _fields(means, weights)])


def summary(means: np.ndarray, weights: np.ndarray, theta: float = 0.3) -> dict[str, float]:
    """The summary of a layer, by the names in tables; every filter's field must have an entry above 0."""
    k, f, p = means.shape
    votes, counts = np.zeros((k, k)), []
    trace, off_diagonal = {"unit": 0.0, "raw": 0.0}, {"unit": 0.0, "raw": 0.0}
    for field in _fields(means, weights):
        above = field > theta * field.max()
        clusters = greedy_clusters(above)
        inside = np.zeros((k, k), bool)
        for cluster in clusters:
            inside[np.ix_(cluster, cluster)] = True
        served, noise = np.diagonal(above), above & ~inside
        counts.append((len(clusters), served.sum(), noise.sum(), noise[:, served].sum(), inside.sum() - served.sum()))
        votes += above
        for kind, unit in (("unit", field.max()), ("raw", 1.0)):
            trace[kind] += np.diagonal(field)[served].sum() / unit
            off_diagonal[kind] += (field[above].sum() - np.diagonal(field)[served].sum()) / unit
    n_clusters, n_served, n_noise, noise_served, internal = np.array(counts, float).T
    live, total = n_clusters > 0, n_served.sum()
    signal, share = np.diagonal(votes), total / (f * k)
    rivals = [max(votes[i, j] for j in range(k) if j != i) for i in range(k)]
    with np.errstate(divide="ignore"):
        return {
            "clusters_per_filter": n_clusters[live].mean(), "cluster_size": total / n_clusters.sum(),
            "labels_per_filter": n_served[live].mean(), "noise_per_filter": n_noise[live].mean(),
            "noise_in_served_columns": noise_served[live].mean(), "internal_per_filter": internal[live].mean(),
            "snr_pair": (k - 1) * total / (internal.sum() + n_noise.sum()),
            "snr_total": total / (internal.sum() + n_noise.sum()), "snr_internal": (k - 1) * total / internal.sum(),
            "snr_external": (k - 1) * total / n_noise.sum(), "snr_field_unit": (k - 1) * trace["unit"] / off_diagonal["unit"],
            "snr_field_raw": (k - 1) * trace["raw"] / off_diagonal["raw"], "filters_per_label": signal.mean(),
            "signal_variation": signal.std() / signal.mean(), "signal_dispersion": signal.var() / (f * share * (1 - share)),
            "vote_margin": min(signal - rivals), "orphan_labels": float((signal == 0).sum()), "kept_share": share,
            "filters_per_layer": float(f), "empty_filters": float((~live).sum()), "places_per_filter": float(p),
        }  # fmt: skip
