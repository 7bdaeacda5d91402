"""A canonical form for all spellings of options."""

from __future__ import annotations

import pytest

from probes.capturing.keywords import options_of
from probes.errors import UsageError
from probes.options import CaptureOptions


def test_defaults_agree_with_the_dataclass() -> None:
    assert options_of() == CaptureOptions()


@pytest.mark.parametrize(
    ("first", "second"),
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
def test_equivalent_spellings_are_equal(first: dict, second: dict) -> None:
    assert options_of(**first) == options_of(**second)


@pytest.mark.parametrize(
    "keywords", [{"layers": []}, {"layers": "!"}, {"layers": "re:("}, {"pool": "men"}, {"pool": "grid"}, {"axes": "T"}]
)
def test_invalid_options_are_refused(keywords: dict) -> None:
    with pytest.raises(UsageError):
        options_of(**keywords)


def test_a_forward_function_is_described() -> None:
    def forward(x: object) -> object:
        return x

    assert "forward" in options_of(forward).forward
    assert options_of(forward) != options_of()
