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
def test_class_counts_agree_with_the_specification(options: dict[str, float], near: int, far: int) -> None:
    labels = scale_task(**options).labels  # type: ignore[arg-type]
    assert [int((labels == label).sum()) for label in (1, 0)] == [near, far]


@pytest.mark.parametrize("distance", ["euclidean", "periodic", "chebyshev"])
def test_two_dimensional_labels_are_defined_by_the_distance(distance: str) -> None:
    task = scale_task(dimensions=2, pixels=8, scale=4, gap=1.0, distance=distance)
    for index in range(0, len(task.pairs), 37):
        rows, columns = np.nonzero(task.image(index)[0])
        offsets = np.abs([rows[0] - rows[1], columns[0] - columns[1]]).astype(float)
        if distance == "periodic":
            offsets = np.minimum(offsets, 8 - offsets)
        separation = offsets.max() if distance == "chebyshev" else np.hypot(*offsets)
        assert not 3.5 <= separation < 4.5
        assert bool(task.labels[index]) == (separation < 4)
    assert task.value == 32


def test_labels_of_task_2_are_shared_quadrants() -> None:
    task = scale_task(task=2, dimensions=2, pixels=6)
    for index in range(0, len(task.pairs), 11):
        rows, columns = np.nonzero(task.image(index)[0])
        assert bool(task.labels[index]) == (len(set(rows // 3)) == len(set(columns // 3)) == 1)


def test_images_on_a_ring_have_squared_norm_n_and_balanced_draws_are_balanced() -> None:
    task = scale_task(task=2, pixels=64, scale=16)
    assert np.square(task.image(5)).sum() == pytest.approx(64)
    rows = task.balanced(3)
    assert len(set(rows.tolist())) == len(rows) == 2 * int(task.labels.sum())
    assert task.labels[rows].mean() == 0.5
    assert not np.array_equal(rows, task.balanced(4))


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
def test_invalid_parameters_have_one_sentence_errors(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        scale_task(**options)  # type: ignore[arg-type]
