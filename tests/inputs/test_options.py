"""Parsing of command-line values."""

from __future__ import annotations

import pytest

from probes.errors import UsageError
from repanalysis.inputs.options import numbers


def test_lists_of_numbers_are_separated_by_commas() -> None:
    assert numbers("0.5, 1e-3,-2") == (0.5, 1e-3, -2.0)


@pytest.mark.parametrize("text", ["", "a", "0.5,", "nan", "1,inf", "0.5;0.4"])
def test_invalid_lists_of_numbers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a list of numbers; write them like 0.5,0.5,0.5"):
        numbers(text)
