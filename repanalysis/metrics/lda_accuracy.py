"""lda_accuracy: accuracy of linear discriminant analysis, fitted on one half of the samples, scored on the other."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from repanalysis.metrics._readout import accuracy, halves, standardized
from repanalysis.metrics._registry import Noted, metric
from repanalysis.statistics import ClassMoments, Samples, SampleSet


def _needed(*, max_samples: int = 5000) -> Samples:
    return Samples(limit=max_samples)


@metric(needs=_needed, invariant={"translation", "scaling"})
def lda_accuracy(samples: SampleSet, *, max_samples: int = 5000) -> Mapping[str, Noted]:  # noqa: ARG001  # read by `needs`
    r"""Accuracy of Gaussian classes of one covariance: the best linear classifier if that is what they are.

    .. math:: \hat y(z) = \arg\max_c \; \mu_c^\top \hat\Sigma_W^{-1} z
              - \tfrac12 \mu_c^\top \hat\Sigma_W^{-1} \mu_c + \log \pi_c

    Parameters
    ----------
    samples : SampleSet
        Labelled samples of d features.
    max_samples : int, default 5000
        Samples to look at, drawn by id; 0 for all.

    Returns
    -------
    dict of str to float
        `""`: in [0, 1], on the half of the samples that is not fitted on. `"train"`: on the half that is.

    Notes
    -----
    scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")`: Sigma_W is Ledoit and Wolf's estimate of
    features scaled to unit variance. The half of a sample depends on its id alone. Standard error: that of a bootstrap
    over the scored samples. Time n d^2 + d^3, memory n d + d^2.

    References
    ----------
    T. Hastie, R. Tibshirani, J. Friedman, "The elements of statistical learning", 2nd edition, 2009, section 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(200) % 2
    >>> x = np.random.default_rng(0).normal(size=(200, 3)) + 4.0 * y[:, None]
    >>> float(lda_accuracy(Samples().of(x, y))[""])
    1.0
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    split = halves(samples)
    if isinstance(split, str):
        return dict.fromkeys(("", "train"), Noted(math.nan, split))
    scaled = standardized(split)
    if scaled is None:
        return dict.fromkeys(("", "train"), Noted(math.nan, "every feature is constant"))
    within = ClassMoments(scatter="none").of(split.train, split.train_y).spread.sum()
    if within <= 1e-24 * np.square(split.train).sum():
        return dict.fromkeys(("", "train"), Noted(math.nan, "the within-class variance is 0"))
    train, test = scaled
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train, split.train_y)
    return {
        "": accuracy(fitted.predict(test) == split.test_y, split.note),
        "train": accuracy(fitted.predict(train) == split.train_y, split.note),
    }
