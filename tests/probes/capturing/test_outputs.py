"""Parts of nested outputs: every kind of container, any depth, keys in order."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest

from probes.capturing.outputs import parts_of


@dataclass
class Output:
    logits: object
    hidden: object


Pair = namedtuple("Pair", ["left", "right"])  # returned by older models


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
def test_every_part_is_named_by_its_keys(output: object, parts: list[tuple[str, object]]) -> None:
    assert list(parts_of(output)) == parts


def test_a_prefix_of_the_keys_may_be_given() -> None:
    assert list(parts_of([1], "layer")) == [("layer.0", 1)]
