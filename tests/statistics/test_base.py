"""The statistic protocol: behaviour that every statistic inherits."""

from __future__ import annotations

import numpy as np
import pytest

from repanalysis.statistics import ClassMoments, NonFiniteError, Samples, Statistic


def test_subclasses_register_themselves() -> None:
    assert ClassMoments in Statistic.registered


def test_of_equals_init_and_update() -> None:
    x, y = np.eye(3), np.array([0, 1, 1])
    statistic = ClassMoments()
    for left, right in zip(statistic.of(x, y), statistic.update(statistic.init(3), x, y, y), strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_error_names_the_row() -> None:
    assert str(NonFiniteError(3, float("nan"))) == "Row 3 holds nan."


def test_the_error_names_the_first_number_of_the_row_that_is_not_finite() -> None:
    x = np.ones((3, 4))
    x[1, 2:] = -np.inf, np.nan
    for statistic in (ClassMoments(), Samples()):
        with pytest.raises(NonFiniteError, match="^Row 1 holds -inf.$"):
            statistic.of(x, np.arange(3))
