"""Which features a head accepts, and the reasons for rejecting others."""

from __future__ import annotations

import numpy as np
import pytest

from repanalysis.heads.head import Head, unfit

HEAD = Head(np.eye(3, 32), np.zeros(3))


def test_a_head_rejects_as_many_positions_of_other_maps() -> None:
    assert HEAD.at(32, (32, 7, 7)) is HEAD.at(32, ()) is HEAD
    assert HEAD.at(32, (8, 8, 8)).foreign == "the head takes 32 features, and these 32 are positions of 8x8x8 maps"
    assert HEAD.at(32, (2, 4, 4)) is HEAD  # all of the map
    assert HEAD.at(31, (8, 8, 8)) is HEAD


@pytest.mark.parametrize(
    ("head", "classes", "d", "reason"),
    [
        (HEAD, [0, 2], 32, ""),
        (HEAD, [], 32, ""),
        (None, [0], 32, "needs the head's weights"),
        (HEAD, [0], 31, "takes 32 features, and this layer has 31"),
        (HEAD, [0, 3], 32, "has 3 classes, but labels go from 0 to 3"),
        (HEAD, [-1, 0], 32, "labels go from -1 to 0"),
        (HEAD._replace(foreign="no map"), [0], 32, "no map"),
        (HEAD._replace(unmatched="no names"), [0], 32, "classes are not matched to the rows of the head: no names"),
    ],
)
def test_a_head_that_can_not_be_compared_has_a_reason(head: Head | None, classes: list[int], d: int, reason: str) -> None:
    message = unfit(head, np.array(classes, np.int64), d)
    assert reason in message
    assert bool(reason) == bool(message)
