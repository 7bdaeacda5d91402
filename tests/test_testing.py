"""The laws detect faulty metrics and name the fault."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis import metrics
from repanalysis.metrics import Metric, Value
from repanalysis.metrics import _registry as registry
from repanalysis.metrics._registry import INVARIANCES
from repanalysis.statistics import ClassGeometry, ClassMoments
from repanalysis.testing import LAWS, check_metric, gaussian_classes


def total(moments: ClassGeometry) -> float:
    """Trace of the covariance."""
    return float(np.asarray(moments.mean).sum())


def no_note(moments: ClassGeometry) -> float:
    """NaN without a reason."""
    return float("nan")


def changes(moments: ClassGeometry) -> float:
    """Modifies its state."""
    moments.mean[:] = 0.0
    return 1.0


def of_class_names(moments: ClassGeometry) -> float:
    """Depends on the labels of classes."""
    return float(np.asarray(moments.classes).max())


def fitted(moments: ClassGeometry) -> Value:
    """Largest mean, undefined for one class."""
    present = moments.counts > 0
    if present.sum() < 2:
        return Value("nan", "needs two classes")
    return Value(float(np.linalg.norm(moments.mean[present], axis=1).max()))


def declared(function: Callable[..., float], **options: object) -> Metric:
    statistic = ClassMoments()
    return Metric(function.__name__, function, lambda **_: statistic, 2, frozenset(options.get("invariant", ())))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (declared(total, invariant=["translation"]), "invariant='translation'"),
        (declared(no_note), "is nan without a note"),
        (declared(changes, invariant=INVARIANCES), "changes the state that it is given; copy it first"),
        (declared(of_class_names, invariant=INVARIANCES), "with classes called"),
        (declared(fitted), "declare invariant='rotation'"),
    ],
)
def test_a_violated_law_is_named(metric: Metric, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_metric(metric)


def test_a_metric_that_obeys_all_laws_passes() -> None:
    check_metric(declared(fitted, invariant=["rotation", "sign"][:1]))
    check_metric("fisher_ratio", documented=True)
    with pytest.raises(AssertionError, match="lacks"):
        check_metric(declared(fitted, invariant=["rotation"]), documented=True)


def test_every_law_is_described() -> None:
    assert all(law.__doc__ for law in LAWS)
    x, y = gaussian_classes(100, 3, 4)
    assert x.shape == (100, 3)
    assert sorted(set(y.tolist())) == [0, 1, 2, 3]


def test_a_redefined_notebook_metric_replaces_only_its_earlier_version() -> None:
    for value in (1.0, 2.0):

        def cell_metric(moments: ClassGeometry, value: float = value) -> float:
            """A constant."""
            return value

        metrics.metric(needs=ClassMoments())(cell_metric)
    state = ClassMoments().of(*gaussian_classes(50, 2, 2))
    assert metrics.get("cell_metric")(state) == {"": 2.0}
    del registry._METRICS["cell_metric"]

    def nc1(moments: ClassGeometry) -> float:
        """Has the name of a built-in metric."""
        return 0.0

    with pytest.raises(metrics._registry.UsageError, match="A metric nc1 exists already"):
        metrics.metric(needs=ClassMoments())(nc1)
