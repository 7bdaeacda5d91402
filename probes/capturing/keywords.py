"""From the keywords of `capture`, `record`, `attach` and `plan` to `CaptureOptions`, in the one way that a file writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from probes.capturing.axes import AxisRules
from probes.capturing.network import description_of
from probes.capturing.pooling import Pooling
from probes.errors import did_you_mean
from probes.options import CaptureKeywords, CaptureOptions
from probes.patterns import as_patterns

__all__ = ["options_of"]


def options_of(forward: Callable[..., Any] | None = None, /, **keywords: Unpack[CaptureKeywords]) -> CaptureOptions:
    """The options that keywords choose; two ways to write the same are equal.

    Parameters
    ----------
    forward : callable, optional
        What runs in place of the model.
    **keywords
        As `CaptureOptions` describes them; patterns, pools and axes also as one text or as a mapping.

    Raises
    ------
    TypeError
        If a keyword is unknown.
    UsageError
        If a pool, a pattern or axes are not understood.

    Examples
    --------
    >>> options_of(layers="relu?", pool={"0": "none"}) == options_of(layers=["relu?"], pool=["0=none"])
    True
    """
    for name in keywords:
        if name not in CaptureKeywords.__annotations__:
            raise TypeError(f"{name!r} is no option of a capture.{did_you_mean(name, CaptureKeywords.__annotations__)}")
    values: dict[str, Any] = dict(keywords)
    pools = Pooling(keywords.get("pool", "mean"), seed=int(keywords.get("seed", 0)))
    patterns = as_patterns(keywords.get("layers"))
    values |= {
        "layers": None if patterns is None else tuple(patterns),
        "pool": pools.texts,
        "axes": AxisRules(keywords.get("axes")).texts,
        "split": keywords.get("split") or "",
        "forward": description_of(forward),
    }
    return CaptureOptions(**values)
