"""Options in a text: types, names, and what is refused with which sentence."""

from __future__ import annotations

import math

import pytest

from probes.errors import UsageError
from repanalysis.specs import options


def function(
    count: int = 1, share: float = 0.5, tight: bool = False, name: str = "a", limit: None = None, seed: int = 0
) -> None:
    """A function with a parameter of every type."""


def test_values_have_the_types_of_defaults() -> None:
    text = "count=3, share=2,tight=TRUE,name=1,limit=4"
    assert options(text, function, "it") == {"count": 3, "share": 2.0, "tight": True, "name": "1", "limit": 4}
    assert type(options("share=2", function, "it")["share"]) is float
    assert options("", function, "it") == {}


def test_symbols_and_further_parameters() -> None:
    assert options("C=2,extra=0.5", function, "it", symbols={"C": "count"}, more={"extra": 1.0}) == {"count": 2, "extra": 0.5}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cuont=1", "Did you mean 'count'"),
        ("count", "'count' in it is no parameter; write key=value"),
        ("count=", "is no parameter"),
        ("count=1,count=2", "count of it is given twice"),
        ("count=1.5", "count of it is '1.5'; it must be a whole number"),
        ("count=true", "must be a whole number"),
        ("share=x", "must be a number"),
        ("share=1e999", "must be a number"),
        ("tight=1", "must be true or false"),
        ("seed=-1", "seed of it is -1; it must be between 0 and 4294967295"),
        (f"seed={2**32}", "it must be between 0 and"),
    ],
)
def test_what_does_not_fit_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        options(text, function, "it")


def test_short_and_long_name_are_the_same_parameter() -> None:
    with pytest.raises(UsageError, match="given twice"):
        options("C=2,count=2", function, "it", symbols={"C": "count"})
    assert math.isclose(options("share=0.25", function, "it")["share"], 0.25)
