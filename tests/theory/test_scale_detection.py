"""The tasks of scale detection: counts of the specification, labels by definition, balance."""

from __future__ import annotations

import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.theory.scale_detection import scale_task


@pytest.mark.parametrize(
    ("options", "near", "far"),
    [
        ({"task": 1, "pixels": 32, "scale": 11, "gap": 11**0.5}, 224, 48),
        ({"task": 1, "pixels": 128, "scale": 32, "gap": 0.0}, 3968, 4160),
        ({"task": 2, "pixels": 128, "scale": 32}, 1984, 8128 - 1984),
    ],
)
def test_counts_of_the_specification(options: dict[str, float], near: int, far: int) -> None:
    labels = scale_task(**options).labels  # type: ignore[arg-type]
    assert [int((labels == one).sum()) for one in (1, 0)] == [near, far]


@pytest.mark.parametrize("distance", ["euclidean", "periodic", "chebyshev"])
def test_two_dimensional_labels_are_those_of_the_distance(distance: str) -> None:
    found = scale_task(dimensions=2, pixels=8, scale=4, gap=1.0, distance=distance)
    for index in range(0, len(found.pairs), 37):
        rows, columns = np.nonzero(found.image(index)[0])
        ways = np.abs([rows[0] - rows[1], columns[0] - columns[1]]).astype(float)
        if distance == "periodic":
            ways = np.minimum(ways, 8 - ways)
        away = ways.max() if distance == "chebyshev" else np.hypot(*ways)
        assert not 3.5 <= away < 4.5
        assert bool(found.labels[index]) == (away < 4)
    assert found.value == 32


def test_quadrants() -> None:
    found = scale_task(task=2, dimensions=2, pixels=6)
    for index in range(0, len(found.pairs), 11):
        rows, columns = np.nonzero(found.image(index)[0])
        assert bool(found.labels[index]) == (len(set(rows // 3)) == len(set(columns // 3)) == 1)


def test_images_of_a_ring_have_norm_n_and_classes_are_balanced() -> None:
    found = scale_task(task=2, pixels=64, scale=16)
    assert np.square(found.image(5)).sum() == pytest.approx(64)
    rows = found.balanced(3)
    assert len(set(rows.tolist())) == len(rows) == 2 * int(found.labels.sum())
    assert found.labels[rows].mean() == 0.5
    assert not np.array_equal(rows, found.balanced(4))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task": 3}, "there are tasks 1 and 2"),
        ({"dimensions": 3}, "there are tasks 1 and 2"),
        ({"pixels": 8, "scale": 9}, "does not fit"),
        ({"pixels": 8, "scale": 4, "gap": 5.0}, "does not fit"),
        ({"task": 2, "pixels": 30, "scale": 8}, "do not tile"),
        ({"distance": "manhattan"}, "Unknown distance"),
    ],
)
def test_what_does_not_fit_is_one_sentence(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        scale_task(**options)  # type: ignore[arg-type]
