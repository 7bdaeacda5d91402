"""Every reported error is a standard exception too, and has the exit code of the design."""

from __future__ import annotations

import pytest

from probes.errors import DataError, FormatError, IncompleteError, ReportedError, UsageError, did_you_mean


@pytest.mark.parametrize(
    ("kind", "standard", "code"),
    [(UsageError, ValueError, 2), (DataError, ValueError, 1), (FormatError, OSError, 1), (IncompleteError, OSError, 3)],
)
def test_errors_are_standard_exceptions_with_exit_codes(
    kind: type[ReportedError], standard: type[Exception], code: int
) -> None:
    assert issubclass(kind, standard)
    assert issubclass(kind, ReportedError)
    assert kind.exit_code == code
    assert str(kind("One sentence.")) == "One sentence."


def test_no_proposal_is_made_without_a_close_match() -> None:
    assert did_you_mean("x", []) == ""
