"""`CaptureOptions` from the keywords of `capture`, `record`, `attach` and `plan`, in the normal form that files store."""

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
    """The options for keywords, in normal form: equivalent keywords give equal options.

    Parameters
    ----------
    forward : callable, optional
        The function that runs in place of the model.
    **keywords
        The fields of `CaptureOptions`; patterns, pools and axes may also be one text or a mapping.

    Raises
    ------
    TypeError
        If a keyword is unknown.
    UsageError
        If a pool, a pattern or axes can't be parsed.

    Examples
    --------
    >>> options_of(layers="relu?", pool={"0": "none"}) == options_of(layers=["relu?"], pool=["0=none"])
    True
    """
    for name in keywords:
        if name not in CaptureKeywords.__annotations__:
            raise TypeError(f"{name!r} is not an option of a capture.{did_you_mean(name, CaptureKeywords.__annotations__)}")
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
