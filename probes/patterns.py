"""Layer patterns: a glob over the name (`*` crosses dots), `re:REGEX` over the whole name, `type:GLOB` over the type.

`!` in front of any of them excludes: a layer is selected if some pattern without `!` matches it, or none is given, and no
pattern with `!` does. Their order does not matter. A name that itself begins with `!` is written `re:!name`.

Needs no torch: the same patterns select among the calls of a network and among the layers of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from probes.batch import LayerInfo
from probes.errors import UsageError, did_you_mean

__all__ = ["Patterns", "as_patterns", "closest", "excludes", "matches", "select", "selects"]

Patterns = str | Sequence[str] | None


def as_patterns(patterns: Patterns) -> list[str] | None:
    """The patterns as a list, checked; None where every layer is meant.

    Raises
    ------
    UsageError
        If the list is empty, a pattern is `!` alone, or a regular expression can't be compiled.
    """
    if patterns is None:
        return None
    texts = [patterns] if isinstance(patterns, str) else list(patterns)
    if not texts:
        raise UsageError("The list of layer patterns is empty. Give at least one, or None for the default.")
    for pattern in texts:
        body = pattern.removeprefix("!")
        if not body:
            raise UsageError(f"Layer pattern {pattern!r} is empty; '!NAME' excludes a layer; name the layer.")
        if body.startswith("re:"):
            try:
                re.compile(body[3:])
            except re.error as error:
                raise UsageError(f"Layer pattern {pattern!r} is not a regular expression: {error}.") from error
    return texts


def excludes(pattern: str) -> bool:
    """Whether a pattern says which layers are left out, rather than which are selected."""
    return pattern.startswith("!")


def selects(hits: Iterable[str], patterns: Sequence[str], *, default: bool = True) -> bool:
    """Whether a layer is selected, by those of the patterns that match it.

    Parameters
    ----------
    hits : iterable of str
        The patterns that match the layer, those with `!` among them.
    patterns : sequence of str
        All patterns.
    default : bool, default True
        Whether the layer is selected if all patterns exclude.

    Examples
    --------
    >>> patterns = ["conv*", "!conv2"]
    >>> selects(["conv*"], patterns), selects(["conv*", "!conv2"], patterns), selects([], ["!conv2"])
    (True, False, True)
    """
    hits = list(hits)
    if any(excludes(pattern) for pattern in hits):
        return False
    return bool(hits) or (default and all(excludes(pattern) for pattern in patterns))


def matches(pattern: str, name: str, types: Iterable[str]) -> bool:
    """Whether a pattern, without its `!`, matches a layer of that name and those type names (class and bases).

    Examples
    --------
    >>> matches("layer*.conv?", "layer1.0.conv2", []), matches("type:Conv*", "stem", ["Conv2d"]), matches("!fc", "fc", [])
    (True, True, True)
    """
    pattern = pattern.removeprefix("!")
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    if pattern.startswith("type:"):
        return any(fnmatchcase(kind, pattern[5:]) for kind in types)
    return fnmatchcase(name, pattern)


def closest(pattern: str, names: Iterable[str]) -> str:
    """Part of a sentence that proposes a pattern that matches; empty if none is close.

    Examples
    --------
    >>> closest("layr4.*", ["layer3.0.conv1", "layer4.0.conv1"])
    " Did you mean 'layer4.*'?"
    """
    if excludes(pattern):
        return closest(pattern[1:], names).replace("Did you mean '", "Did you mean '!")
    if pattern.startswith(("re:", "type:")):
        return ""
    names = list(names)
    parts = {part for name in names for part in name.split(".")}
    mended = []
    for part in pattern.split("."):
        matches_part = any(fnmatchcase(candidate, part) for candidate in parts)
        close = [] if matches_part else get_close_matches(part, sorted(parts, reverse=True), n=1)
        mended.append(close[0] if close else part)
    guess = ".".join(mended)
    if guess != pattern and any(fnmatchcase(name, guess) for name in names):
        return f" Did you mean {guess!r}?"
    return did_you_mean(pattern, names)


def select(patterns: Patterns, info: Mapping[str, LayerInfo], where: str) -> list[str]:
    """The layers of `info` that the patterns select, in order of execution; all without patterns.

    Parameters
    ----------
    patterns : str or sequence of str, optional
        Layer patterns.
    info : mapping of str to LayerInfo
        All layers.
    where : str
        Name of the source in messages.

    Raises
    ------
    UsageError
        If a pattern matches nothing, or all layers are excluded.
    """
    texts = as_patterns(patterns)
    if texts is None:
        return list(info)
    hits = {name: [p for p in texts if matches(p, name, [layer.module_type])] for name, layer in info.items()}
    matched = {pattern for matching in hits.values() for pattern in matching}
    for pattern in texts:
        if pattern not in matched:
            raise UsageError(
                f"No layer of {where} matches {pattern!r}.{closest(pattern, info)} `repanalysis info` lists all {len(info)}."
            )
    selected = [name for name, matching in hits.items() if selects(matching, texts)]
    if not selected:
        raise UsageError(f"The patterns {', '.join(map(repr, texts))} exclude all {len(info)} layers of {where}.")
    return selected
