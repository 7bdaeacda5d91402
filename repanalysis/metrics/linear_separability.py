"""linear_separability: accuracy of an unregularised linear classifier on its training samples."""

from __future__ import annotations

import math
import warnings

import numpy as np

from repanalysis.metrics._readout import left_singular
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import Samples, SampleSet
from repanalysis.statistics.shares import share_error


def _needed(*, max_samples: int = 5000) -> Samples:
    return Samples(limit=max_samples)


@metric(needs=_needed, invariant={"translation", "rotation", "scaling", "linear"}, structure="up")
def linear_separability(samples: SampleSet, *, max_samples: int = 5000) -> Value:  # noqa: ARG001  # read by `needs`
    r"""Training accuracy of an unregularised linear classifier: 1 if classes are linearly separable.

    .. math:: \frac1n \sum_i \bigl[\arg\max_c (W z_i + b)_c = y_i\bigr], \qquad
              W, b \text{ minimise the cross-entropy of the same samples}

    Parameters
    ----------
    samples : SampleSet
        Labelled samples of d features.
    max_samples : int, default 5000
        Maximal number of samples, drawn by id; 0 uses all.

    Returns
    -------
    float
        In [0, 1]; the depth at which it reaches 1 is the depth at which classes have become linearly separable.

    Notes
    -----
    It describes these samples, not the classes: n <= d + 1 samples in general position are always separable, and a note
    says so. Samples are whitened first, which affects only the number of steps. A fit that has not converged
    after 1,000 steps gives a lower bound, with a note. Standard error: that of a share of the samples; none where they are
    always separable. Time n d min(n, d) and 1,000 n d K at most.

    References
    ----------
    T. Cover, "Geometrical and statistical properties of systems of linear inequalities", IEEE Trans. Electronic Computers
    14, 1965.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(40) // 20
    >>> float(linear_separability(Samples().of(np.linspace(0, 1, 40)[:, None], y)))
    1.0
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if samples.k < 2:
        return Value(math.nan, "needs two classes")
    x = samples.x.astype(np.float64)
    x -= x.mean(axis=0)
    scale = np.abs(x).max()
    if not scale > 0:
        return Value(math.nan, "all samples are equal")
    white = left_singular(x / scale)[0] * math.sqrt(len(x))
    trivial = (
        f"{samples.n} samples in {white.shape[1]} dimensions are always separable" if samples.n <= white.shape[1] + 1 else ""
    )
    if trivial:
        return Value(1.0, "; ".join(filter(None, [samples.note, trivial])))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = LogisticRegression(C=np.inf, max_iter=1000, tol=1e-6).fit(white, samples.labels)
    share = float((fitted.predict(white) == samples.labels).mean())
    slow = any(issubclass(warning.category, ConvergenceWarning) for warning in caught) and share < 1.0
    late = "a lower bound: the fit had not converged after 1,000 steps" if slow else ""
    return Value(share, "; ".join(filter(None, [samples.note, late])), se=share_error(share, samples.n))
