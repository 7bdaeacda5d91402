"""The first rows of arbitrarily nested inputs."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.loading.inputs import Inputs, rows_of, take_rows
from probes.loading.reader import as_inputs
from tests.probes.loading.test_reader import OfList, Two, X, Z


@pytest.mark.parametrize(
    "value",
    [
        X,
        (X, Z),
        {"a": X, "b": (Z, [X])},
        UserDict({"a": X, "scale": torch.tensor(2.0)}),
        [torch.rand(3, 5, 6), torch.rand(3, 6, 5), torch.rand(3, 9, 9)],
        {"shared": torch.zeros(1, 9), "x": X, "names": ["a", "b", "c", "d"]},
    ],
)
def test_the_first_rows_of_nested_inputs(value: Any) -> None:
    rows = 4 if isinstance(value, dict) else rows_of(value)  # the first value is a tensor of one row
    cut = take_rows(value, 2, rows=rows)
    assert type(cut) is type(value)
    if isinstance(value, list):
        assert [a is b for a, b in zip(cut, value, strict=False)] == [True, True]
        return
    first = cut if isinstance(cut, Tensor) else cut[0] if isinstance(cut, tuple) else cut.get("x", cut.get("a"))
    assert torch.equal(first, X[:2])
    if isinstance(value, dict) and "shared" in value:
        assert (cut["shared"].shape, cut["names"]) == ((1, 9), ["a", "b"])
    assert take_rows(value, 100, rows=rows) is value


def test_inputs_record_the_meaning_of_a_list() -> None:
    three = [torch.rand(3, 4, 4) for _ in range(3)]
    (two,) = Inputs((three,), rows=3, listed=True).take(2).args
    assert [a is b for a, b in zip(two, three, strict=False)] == [True, True]
    named = as_inputs(OfList(), {"images": three}).take(2).kwargs["images"]
    assert [a is b for a, b in zip(named, three, strict=False)] == [True, True]
    pair = as_inputs(Two(), (X[:2], Z[:2])).take(1)
    assert [part.shape for part in pair.args] == [(1, 3), (1, 3)]
    assert as_inputs(Two(), {"left": X, "right": Z}).take(3).kwargs["right"].shape == (3, 3)
