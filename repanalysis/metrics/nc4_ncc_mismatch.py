"""nc4_ncc_mismatch: how often the head and the nearest class centre disagree (docs/separation.md)."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import blas

from repanalysis.heads.head import Head, unfit
from repanalysis.metrics._readout import accuracy, by_discriminants, centres_of, halves, is_correct, nearest
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassMoments, Samples, SampleSet


def _needed(*, max_samples: int = 5000, head: Head | None = None) -> Samples:  # noqa: ARG001
    return Samples(limit=max_samples)


@metric(needs=_needed, structure="down")
def nc4_ncc_mismatch(
    samples: SampleSet,
    *,
    head: Head | None = None,
    max_samples: int = 5000,  # noqa: ARG001  # read by `needs`
) -> Value:
    r"""Share of samples for which the head and the nearest class centre predict different classes: 0 at neural collapse.

    .. math:: \frac1m \sum_i \bigl[\arg\max_c (W z_i + b)_c \ne \arg\min_c \|z_i - \mu_c\|\bigr]

    Parameters
    ----------
    samples : SampleSet
        Labelled samples of d features: those that the head accepts.
    head : Head
        Its weights and offsets.
    max_samples : int, default 5000
        Maximal number of samples, drawn by id; 0 uses all.

    Returns
    -------
    float
        In [0, 1]. NaN at layers that the head does not accept.

    Notes
    -----
    A head with more rows than the data have classes decides among the classes of the data. Class centres come from one half of
    the samples, the share from the other; the half depends on the id alone. Standard error: that of a share of the scored
    samples, and a jackknife of the centres; the head is fixed. Time n K d, memory n d.

    References
    ----------
    V. Papyan, X. Y. Han, D. L. Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
    training", PNAS 117, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(100) % 2
    >>> x = np.where(y[:, None], 1.0, -1.0) + np.linspace(-0.4, 0.4, 100)[:, None]
    >>> float(nc4_ncc_mismatch(Samples().of(x, y), head=Head(np.array([[-1.0], [1.0]]), np.zeros(2))))
    0.0
    """
    if reason := unfit(head, np.unique(samples.labels), samples.x.shape[1]):
        return Value(math.nan, reason)
    assert head is not None
    split = halves(samples)
    if isinstance(split, str):
        return Value(math.nan, split)
    moments = ClassMoments(scatter="none").of(split.train, split.train_y)
    centres = centres_of(moments, len(split.labels))
    nearest_labels = split.labels[nearest(split.test, centres)]
    rows = samples.x[~samples.training()].astype(np.float64)
    predicted = np.argmax(blas.dgemm(1.0, rows.T, head.weight.T, trans_a=1) + head.bias, axis=1)
    positions = np.minimum(np.searchsorted(split.labels, predicted), len(split.labels) - 1)
    as_labels = split._replace(test_y=np.where(split.labels[positions] == predicted, positions, -1))
    refits = [~is_correct(as_labels, *each) for each in by_discriminants(split, lambda v: v)]
    return accuracy(predicted != nearest_labels, split.note, refits=refits)
