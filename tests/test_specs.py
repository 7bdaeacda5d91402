"""Options in a specification: types, names, and error messages."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.specs import convert, options


def function(
    count: int = 1, share: float = 0.5, tight: bool = False, name: str = "a", limit: int | None = None, seed: int = 0
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
        ("count", "'count' in it is not a parameter; write key=value"),
        ("count=", "is not a parameter"),
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
def test_invalid_options_have_one_sentence_errors(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        options(text, function, "it")


def test_short_and_long_name_are_the_same_parameter() -> None:
    with pytest.raises(UsageError, match="given twice"):
        options("C=2,count=2", function, "it", symbols={"C": "count"})
    assert math.isclose(options("share=0.25", function, "it")["share"], 0.25)


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (np.int64(3), int, 3),
        (np.float32(0.5), float, 0.5),
        (3, float, 3.0),
        ("none", int | None, None),
        (None, float | None, None),
        ("7", int | str, 7),
        ("random", int | str, "random"),
        ("a", Literal["a", "b"], "a"),
        (math.inf, float, math.inf),  # to be refused by the function itself
    ],
)
def test_values_are_converted_to_the_annotated_type(value: object, hint: object, result: object) -> None:
    converted = convert(value, hint, "it")
    assert converted == result
    assert type(converted) is type(result)


@pytest.mark.parametrize(
    ("value", "hint", "sentence"),
    [
        (True, int, "it is True; it must be a whole number"),
        (True, float, "it must be a number"),
        (1, bool, "it must be true or false"),
        ([1], int | None, "must be a whole number"),
        ("c", Literal["a", "b"], "Unknown it 'c'"),
    ],
)
def test_values_of_another_type_are_refused(value: object, hint: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        convert(value, hint, "it")
