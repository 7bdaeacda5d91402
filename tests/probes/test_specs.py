"""The grammar of specifications: names, arguments, options, and errors."""

from __future__ import annotations

import pytest

from probes.errors import UsageError
from probes.specs import Spec, parse_options, parse_spec, parse_specs


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("mean", Spec("mean")),
        ("grid:4", Spec("grid", "4")),
        (" grid : 4 ", Spec("grid", "4")),
        ("project:7,seed=3", Spec("project", "7", {"seed": "3"})),
        ("diffeo:delta=1,c=3", Spec("diffeo", "", {"delta": "1", "c": "3"})),
        ("py:a.b:f,k=3", Spec("py", "a.b:f", {"k": "3"})),
        ("torchvision:CIFAR10,root=/a:b=c", Spec("torchvision", "CIFAR10", {"root": "/a:b=c"})),
        ("shift:1..4,border=reflect", Spec("shift", "1..4", {"border": "reflect"})),
        ("digits:", Spec("digits")),
        ("shift:2,", Spec("shift", "2")),
    ],
)
def test_specifications_are_parsed(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


def test_a_list_item_includes_its_options() -> None:
    text = "a, b:x=1,y=2,c,py:m:f,k=3, d"
    assert parse_specs(text) == [
        Spec("a"), Spec("b", "", {"x": "1", "y": "2"}), Spec("c"), Spec("py", "m:f", {"k": "3"}), Spec("d"),
    ]  # fmt: skip
    assert parse_specs("a,x=1") == [Spec("a", "", {"x": "1"})]
    assert parse_specs(" , ") == []


@pytest.mark.parametrize("text", ["a:b,c", "a:x=1,y", "a:x=1,=2", "a:x=1,y="])
def test_invalid_options_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"in a is not a parameter; write key=value,key=value\."):
        parse_spec(text)


def test_a_repeated_key_is_refused() -> None:
    for parse in (parse_spec, parse_specs):
        with pytest.raises(UsageError, match="x of a is given twice"):
            parse("a:x=1,x=1")
    with pytest.raises(UsageError, match="x of it is given twice"):
        parse_options("x=1, x = 2", "it")
