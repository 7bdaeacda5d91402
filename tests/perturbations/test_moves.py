"""Moving points: by one pixel, within their blocks, as often each way, and the labels of the tasks kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from probes.errors import UsageError
from repanalysis.perturbations import Moves
from repanalysis.theory.scale_detection import ScaleTask, scale_task


def images(task: ScaleTask, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack([task.image(int(row)) for row in rows]))


def test_each_point_of_a_row_moves_by_one_or_stops_at_the_border() -> None:
    x = torch.zeros(4000, 1, 1, 9)
    x[:2000, ..., 4] = 1.0
    x[2000:, ..., 0] = 1.0
    places = Moves()(x, range(4000)).nonzero()[:, 3].view(2, 2000)
    left = (places[0] == 3).double().mean()
    assert set(places[0].tolist()) == {3, 5}
    assert set(places[1].tolist()) == {0, 1}
    assert float(left) == pytest.approx(0.5, abs=5 * (0.25 / 2000) ** 0.5)


def test_points_move_independently() -> None:
    x = torch.zeros(3000, 1, 1, 20)
    x[..., 5] = x[..., 14] = 1.0
    places = Moves()(x, range(3000)).nonzero()[:, 3].view(3000, 2).double()
    correlation = np.corrcoef(places.T.numpy())[0, 1]
    assert abs(correlation) < 5 / 3000**0.5


def test_in_two_dimensions_a_step_is_one_pixel_in_eight_directions() -> None:
    x = torch.zeros(4000, 1, 7, 7)
    x[:, 0, 3, 3] = 2.0
    places = Moves()(x, range(4000)).nonzero()[:, 2:] - 3
    assert {tuple(one) for one in places.tolist()} == {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)} - {(0, 0)}
    # Each is the share of the circle that rounds to it: 60 degrees for a straight step's 2 asin(1/2), 30 for a diagonal one's.
    straight = (places.abs().sum(1) == 1).double().mean()
    assert float(straight) == pytest.approx(2 / 3, abs=5 * (2 / 9 / 4000) ** 0.5)


def test_moves_within_blocks_keep_the_labels_of_task_2() -> None:
    task = scale_task(task=2, pixels=32, scale=8)
    rows = np.arange(len(task.labels))
    moved = Moves(block=8)(images(task, rows), rows)
    for row in rows:
        sites = moved[int(row)].flatten().nonzero().flatten()
        same = len(set((sites // 8).tolist())) == 1
        assert same == bool(task.labels[row])


def test_moves_keep_the_labels_of_task_1_where_the_gap_is_2() -> None:
    task = scale_task(task=1, pixels=32, scale=11, gap=2.0, distance="euclidean")
    rows = np.arange(len(task.labels))
    moved = Moves()(images(task, rows), rows)
    for row in rows:
        sites = moved[int(row)].flatten().nonzero().flatten()
        away = int(sites.max() - sites.min())
        assert (away < 11) == bool(task.labels[row])


def test_points_that_meet_are_added_and_colours_go_along() -> None:
    x = torch.zeros(200, 3, 1, 4)
    x[:, 0, 0, 0] = x[:, 1, 0, 0] = 1.0
    x[:, 2, 0, 2] = 5.0
    moved = Moves()(x, range(200))
    assert torch.equal(moved.sum((2, 3)), x.sum((2, 3)))


def test_images_that_are_no_points_are_one_sentence() -> None:
    with pytest.raises(UsageError, match="at most 64 points"):
        Moves()(torch.rand(2, 1, 16, 16), [0, 1])
