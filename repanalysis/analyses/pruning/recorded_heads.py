"""Prune a linear head on recorded activations by clusters. The layers below it are frozen, so no network is needed."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_doc import Doc
from annotated_types import Ge
from tqdm.auto import tqdm

from repanalysis.analyses.declaration import analysis
from repanalysis.analyses.filters.measures import LabelledActivations, class_means
from repanalysis.analyses.pruning.masks import ThetasOption, head_mask, random_alike
from repanalysis.heads.clusters import ClusterOptions, clusters_of
from repanalysis.heads.fitting import HeadOptions
from repanalysis.heads.scoring import accuracy_of
from repanalysis.statistics.draws import fitted_on
from repanalysis.table import Table

__all__ = ["prune_head"]


@analysis
def prune_head(
    train: LabelledActivations,
    test: LabelledActivations,
    *,
    thetas: ThetasOption = (0.1, 0.3, 0.5, 0.7, 0.9),
    classes: int | None = None,
    heads: HeadOptions = HeadOptions(),  # noqa: B008  # frozen
    controls: Annotated[int, Ge(0), Doc("Number of random masks of equal size, to average over.")] = 3,
    run: str = "run",
    seed: int = 0,
    progress: bool | None = None,
) -> Table:
    """Accuracy of a linear head against the share of its weights that are pruned, by clusters and at random.

    Parameters
    ----------
    train, test : LabelledActivations
        Activations before the head, their classes and ids. Masks are computed from the training samples: from a head fitted to
        one half of them, drawn by id, and class means of the other half.
    thetas : sequence of float
        Thresholds; higher ones keep fewer weights.
    classes : int, optional
        K; by default the largest class plus one.
    heads : HeadOptions
        Solver and penalty of the heads.
    controls : int, default 3
        Number of random masks of equal size, over which the control is averaged.
    run : str
        Name of the run in the table.
    seed : int, default 0
        Seed of the random masks.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Returns
    -------
    Table
        `head_accuracy` with variants "full", "clusters masked" (not retrained), "clusters retrained", "random
        retrained"; `strength` is the dilution, the share of masked weights, and `se` the standard error over test
        samples (of the random masks: over masks). `kept_multiplications` is the remaining share of the head's multiplications.

    Raises
    ------
    UsageError
        If a threshold is not in (0, 1).

    Notes
    -----
    Masked weights are exactly 0.
    """
    (x, y, ids), (z, t, _) = train, test
    k = classes or int(max(y.max(), t.max())) + 1
    f, p = x.shape[1:]
    flat, flat_test = x.reshape(len(x), -1), z.reshape(len(z), -1)
    full = heads.fit(flat, y, k)
    centred, fit_mask = full - full.mean(0), fitted_on(ids, cut=2)
    weights = heads.fit(flat[fit_mask], y[fit_mask], k).reshape(k, f, p)
    means = class_means(x[~fit_mask], y[~fit_mask], k)
    accuracy, se = accuracy_of(full, flat_test, t)
    base = {"run": run, "layer": "head", "metric": "head_accuracy", "perturbation": "dilution", "n": len(t)}
    rows: list[dict[str, Any]] = [base | {"variant": "full", "strength": 0.0, "value": accuracy, "se": se}]
    for theta in tqdm(thetas, desc=run, unit=" thresholds", disable=None if progress is None else not progress):
        clusters = clusters_of(means, weights, ClusterOptions(theta), fields=False)
        mask = head_mask(clusters.serves, p)
        dilution = 1 - float(mask.mean())
        common = base | {"strength": dilution, "note": f"theta = {theta:g}"}
        for variant, head in (
            ("clusters masked", centred * mask),
            ("clusters retrained", heads.fit(flat, y, k, mask=mask)),
        ):
            accuracy, se = accuracy_of(head, flat_test, t)
            rows.append(common | {"variant": variant, "value": accuracy, "se": se})
        random_accuracies = [
            accuracy_of(heads.fit(flat, y, k, mask=random_alike(mask, seed=seed + draw)), flat_test, t)[0]
            for draw in range(controls)
        ]
        if random_accuracies:
            error = float(np.std(random_accuracies, ddof=1) / np.sqrt(controls)) if controls > 1 else np.nan
            rows.append(common | {"variant": "random retrained", "value": float(np.mean(random_accuracies)), "se": error})
        rows.append(common | {"metric": "kept_multiplications", "value": float(mask.mean())})
    return Table.from_rows(rows, {run: {"n_train": len(y)}})
