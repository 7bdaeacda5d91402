"""One canonical form for every way to write options."""

from __future__ import annotations

import pytest

from probes.capturing.keywords import options_of
from probes.errors import UsageError
from probes.options import CaptureOptions


def test_defaults_are_those_of_the_dataclass() -> None:
    assert options_of() == CaptureOptions()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"layers": "a"}, {"layers": ["a"]}),
        ({"layers": "a"}, {"layers": ("a",)}),
        ({"pool": "mean"}, {"pool": ["mean"]}),
        ({"pool": {"a": "none", "*": "mean"}}, {"pool": ["a=none", "mean"]}),
        ({"pool": "project:3", "seed": 5}, {"pool": "project:3,seed=5", "seed": 5}),
        ({"axes": "a=TBC"}, {"axes": {"a": "TBC"}}),
        ({"axes": "TBC"}, {"axes": ["*=TBC"]}),
        ({"axes": None}, {"axes": []}),
        ({"split": None}, {"split": ""}),
    ],
)
def test_two_ways_to_write_the_same_are_equal(one: dict, other: dict) -> None:
    assert options_of(**one) == options_of(**other)


@pytest.mark.parametrize(
    "keywords", [{"layers": []}, {"layers": "!"}, {"layers": "re:("}, {"pool": "men"}, {"pool": "grid"}, {"axes": "T"}]
)
def test_what_is_not_understood_is_refused(keywords: dict) -> None:
    with pytest.raises(UsageError):
        options_of(**keywords)


def test_a_function_in_place_of_the_model_is_described() -> None:
    def forward(x: object) -> object:
        return x

    assert "forward" in options_of(forward).forward
    assert options_of(forward) != options_of()
