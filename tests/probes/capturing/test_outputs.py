"""Nested outputs taken apart: every kind of container, any depth, keys in their order."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest

from probes.capturing.outputs import parts_of


@dataclass
class Output:
    logits: object
    hidden: object


Pair = namedtuple("Pair", ["left", "right"])  # what older models return


@pytest.mark.parametrize(
    ("output", "parts"),
    [
        (1, [("", 1)]),
        (None, [("", None)]),
        ("text", [("", "text")]),
        ([], []),
        ({}, []),
        ((1, (2, 3)), [("0", 1), ("1.0", 2), ("1.1", 3)]),
        (OrderedDict(b=1, a={"c": [2]}), [("b", 1), ("a.c.0", 2)]),
        (Output(1, (2, None)), [("logits", 1), ("hidden.0", 2), ("hidden.1", None)]),
        (Output, [("", Output)]),
        (Pair(1, [2]), [("0", 1), ("1.0", 2)]),
        ({0: 1}, [("0", 1)]),
    ],
)
def test_every_part_has_the_keys_that_lead_to_it(output: object, parts: list[tuple[str, object]]) -> None:
    assert list(parts_of(output)) == parts


def test_a_key_may_be_given() -> None:
    assert list(parts_of([1], "layer")) == [("layer.0", 1)]
