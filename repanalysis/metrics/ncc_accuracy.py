"""ncc_accuracy: accuracy of the nearest class centre (docs/separation.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, solve_triangular

from repanalysis.metrics._readout import accuracy, by_discriminants, centres_of, halves, is_correct, nearest
from repanalysis.metrics._registry import Value, metric
from repanalysis.metrics._whitening import cholesky
from repanalysis.statistics import ClassMoments, Samples, SampleSet


def _needed(*, max_samples: int = 5000) -> Samples:
    return Samples(limit=max_samples)


@metric(needs=_needed, invariant={"translation", "rotation", "scaling"}, structure="up")
def ncc_accuracy(samples: SampleSet, *, max_samples: int = 5000) -> Mapping[str, Value]:  # noqa: ARG001  # read by `needs`
    r"""Share of samples whose nearest class centre is that of their own class.

    .. math:: \frac1m \sum_i \bigl[\arg\min_c \|z_i - \mu_c\| = y_i\bigr]

    Parameters
    ----------
    samples : SampleSet
        Labelled samples of d features.
    max_samples : int, default 5000
        Maximal number of samples, drawn by id; 0 uses all.

    Returns
    -------
    dict of str to float
        `""`: in [0, 1], with Euclidean distance, on the half of the samples that the centres are not computed from.
        `"train"`: on the other half. `"whitened"`: with distances in units of the within-class covariance, NaN if that is
        singular.

    Notes
    -----
    The half of a sample depends on its id alone. Standard error: that of a share of the scored samples, plus a jackknife of the
    fit ("train": the first alone). Time n K d, n d^2 + d^3 for the whitened one; memory n d.

    References
    ----------
    V. Papyan, X. Y. Han, D. L. Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
    training", PNAS 117, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(100) % 2
    >>> float(ncc_accuracy(Samples().of(y[:, None] + np.linspace(-0.4, 0.4, 100)[:, None], y))[""])
    1.0
    """
    split = halves(samples)
    if isinstance(split, str):
        return dict.fromkeys(("", "train", "whitened"), Value(math.nan, split))
    moments = ClassMoments().of(split.train, split.train_y)
    centres = centres_of(moments, len(split.labels))
    plain = [is_correct(split, *each) for each in by_discriminants(split, lambda v: v)]
    values = {
        "": accuracy(nearest(split.test, centres) == split.test_y, split.note, refits=plain),
        "train": accuracy(nearest(split.train, centres) == split.train_y, split.note),
    }
    upper = cholesky(moments, samples.rounding())
    if upper is None:
        return values | {
            "whitened": Value(
                math.nan,
                "the within-class covariance is singular: the half that is fitted has too few samples for its features",
            )
        }
    white, white_centres = (solve_triangular(upper, part.T, trans=1).T for part in (split.test, np.nan_to_num(centres)))
    white_centres[np.isnan(centres[:, 0])] = np.nan
    try:
        weight = np.full(len(split.train), 1.0 / len(split.train))  # of a sample in the covariance, whose weights are n_c/n
        fits = by_discriminants(split, lambda v: cho_solve((upper, False), v), weight)
        refits = [is_correct(split, *each) for each in fits]
    except LinAlgError:
        refits = None
    return values | {"whitened": accuracy(nearest(white, white_centres) == split.test_y, split.note, refits=refits)}
