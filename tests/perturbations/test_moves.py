"""Moving points: by one pixel, within their blocks, uniformly in direction, with the labels of the tasks kept."""

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
    leftward = (places[0] == 3).double().mean()
    assert set(places[0].tolist()) == {3, 5}
    assert set(places[1].tolist()) == {0, 1}
    assert float(leftward) == pytest.approx(0.5, abs=5 * (0.25 / 2000) ** 0.5)


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
    assert {tuple(position) for position in places.tolist()} == {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)} - {(0, 0)}
    # The probability of a step is the share of angles that round to it: 2 asin(1/2) = 60 degrees if straight, 30 if diagonal.
    straight = (places.abs().sum(1) == 1).double().mean()
    assert float(straight) == pytest.approx(2 / 3, abs=5 * (2 / 9 / 4000) ** 0.5)


def test_moves_within_blocks_keep_the_labels_of_task_2() -> None:
    task = scale_task(task=2, pixels=32, scale=8)
    rows = np.arange(len(task.labels))
    perturbed = Moves(block=8)(images(task, rows), rows)
    for row in rows:
        sites = perturbed[int(row)].flatten().nonzero().flatten()
        in_one_block = len(set((sites // 8).tolist())) == 1
        assert in_one_block == bool(task.labels[row])


def test_moves_keep_the_labels_of_task_1_where_the_gap_is_2() -> None:
    task = scale_task(task=1, pixels=32, scale=11, gap=2.0, distance="euclidean")
    rows = np.arange(len(task.labels))
    perturbed = Moves()(images(task, rows), rows)
    for row in rows:
        sites = perturbed[int(row)].flatten().nonzero().flatten()
        separation = int(sites.max() - sites.min())
        assert (separation < 11) == bool(task.labels[row])


def test_coinciding_points_are_added_and_keep_their_colours() -> None:
    x = torch.zeros(200, 3, 1, 4)
    x[:, 0, 0, 0] = x[:, 1, 0, 0] = 1.0
    x[:, 2, 0, 2] = 5.0
    perturbed = Moves()(x, range(200))
    assert torch.equal(perturbed.sum((2, 3)), x.sum((2, 3)))


def test_other_images_than_points_have_one_sentence_errors() -> None:
    with pytest.raises(UsageError, match="at most 64 points"):
        Moves()(torch.rand(2, 1, 16, 16), [0, 1])
