"""Layer patterns: a glob over the name (`*` crosses dots), `re:REGEX` over the whole name, `type:GLOB` over the type.

Needs no torch: the same patterns select among the calls of a network and among the layers of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from probes.batch import LayerInfo
from probes.errors import UsageError, did_you_mean

__all__ = ["Patterns", "as_patterns", "closest", "matches", "select"]

Patterns = str | Sequence[str] | None


def as_patterns(patterns: Patterns) -> list[str] | None:
    """The patterns as a list, checked; None where every layer is meant.

    Raises
    ------
    UsageError
        If the list is empty or a regular expression can't be compiled.
    """
    if patterns is None:
        return None
    found = [patterns] if isinstance(patterns, str) else list(patterns)
    if not found:
        raise UsageError("The list of layer patterns is empty. Give at least one, or None for the default.")
    for pattern in found:
        if pattern.startswith("re:"):
            try:
                re.compile(pattern[3:])
            except re.error as error:
                raise UsageError(f"Layer pattern {pattern!r} is no regular expression: {error}.") from error
    return found


def matches(pattern: str, name: str, types: Iterable[str]) -> bool:
    """Whether a layer of that name and those type names (its class and its base classes) is meant.

    Examples
    --------
    >>> matches("layer*.conv?", "layer1.0.conv2", []), matches("type:Conv*", "stem", ["Conv2d"])
    (True, True)
    """
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    if pattern.startswith("type:"):
        return any(fnmatchcase(kind, pattern[5:]) for kind in types)
    return fnmatchcase(name, pattern)


def closest(pattern: str, names: Iterable[str]) -> str:
    """The half sentence that proposes a pattern which would have matched, empty where nothing is close.

    Examples
    --------
    >>> closest("layr4.*", ["layer3.0.conv1", "layer4.0.conv1"])
    " Did you mean 'layer4.*'?"
    """
    if pattern.startswith(("re:", "type:")):
        return ""
    names = list(names)
    parts = {part for name in names for part in name.split(".")}
    mended = []
    for part in pattern.split("."):
        known = any(fnmatchcase(candidate, part) for candidate in parts)
        close = [] if known else get_close_matches(part, sorted(parts, reverse=True), n=1)
        mended.append(close[0] if close else part)
    guess = ".".join(mended)
    if guess != pattern and any(fnmatchcase(name, guess) for name in names):
        return f" Did you mean {guess!r}?"
    return did_you_mean(pattern, names)


def select(patterns: Patterns, info: Mapping[str, LayerInfo], where: str) -> list[str]:
    """The layers of `info` that some pattern matches, in order of execution; all without patterns.

    Parameters
    ----------
    patterns : str or sequence of str, optional
        Wanted layers.
    info : mapping of str to LayerInfo
        What there is.
    where : str
        What the layers belong to, for the message.

    Raises
    ------
    UsageError
        If a pattern matches nothing.
    """
    wanted = as_patterns(patterns)
    if wanted is None:
        return list(info)
    hits = {p: {name for name, layer in info.items() if matches(p, name, [layer.module_type])} for p in wanted}
    for pattern, found in hits.items():
        if not found:
            raise UsageError(
                f"No layer of {where} matches {pattern!r}.{closest(pattern, info)} `repanalysis info` lists all {len(info)}."
            )
    return [name for name in info if any(name in found for found in hits.values())]
