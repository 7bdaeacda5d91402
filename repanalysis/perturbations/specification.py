"""`"diffeo:delta=1,c=3"` -> perturbations; a range of strengths makes a sweep of them.

NAME:key=value,...          diffeo:delta=1,c=3    shift:pixels=2,border=reflect    noise:sigma=0.1
NAME:AMOUNT                 shift:2               rotation:10
a..b                        shift:1..8            every whole number from a to b
a..b/k                      diffeo:0.1..10/20     k amounts from a to b, equal factors apart
noise:match=NAME            noise as strong, image by image, as the perturbation of that name beside it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from probes.errors import UsageError
from repanalysis._checks import one_of
from repanalysis.perturbations.base import Perturbation
from repanalysis.perturbations.noise import MatchedNoise
from repanalysis.specs import options

__all__ = ["perturbations"]

_MOST_STRENGTHS = 1000


def perturbations(specs: str | Sequence[str], *, seed: int = 0) -> list[Perturbation]:
    """Perturbations that specifications name, in their order; strengths of a sweep one after the other.

    Parameters
    ----------
    specs : str or sequence of str
        As above.
    seed : int, default 0
        What all of them draw from, each in its own way.

    Raises
    ------
    UsageError
        If a name or a parameter is unknown, two are the same, or noise matches nothing that is there.

    Examples
    --------
    >>> [(one.label, one.strength) for one in perturbations(["shift:1..3", "noise:match=shift"])][2:5]
    [('shift', 3.0), ('noise:match=shift', 1.0), ('noise:match=shift', 2.0)]
    """
    specs = [specs] if isinstance(specs, str) else list(specs)
    if not specs:
        raise UsageError("Stability needs a perturbation: diffeo:delta=1,c=3, shift:1..8 or noise:sigma=0.1, for example.")
    plain = {spec: _family(spec, seed) for spec in specs if _matched(spec) is None}
    there: dict[str, list[Perturbation]] = {}
    for family in plain.values():
        there.setdefault(family[0].name, []).extend(family)
    found = [one for spec in specs for one in (plain[spec] if spec in plain else _matching(spec, there, seed))]
    if len(set(found)) < len(found):
        raise UsageError("Two of the perturbations are the same; give each once.")
    return found


def _matched(spec: str) -> str | None:
    """Name of the perturbation that noise is to match."""
    name, _, text = spec.partition(":")
    key, equals, value = text.partition("=")
    return value.strip() if name.strip() == "noise" and equals and key.strip() == "match" else None


def _matching(spec: str, there: dict[str, list[Perturbation]], seed: int) -> list[Perturbation]:
    other = _matched(spec) or ""
    if other not in there:
        given = f"Beside it there are {', '.join(there)}." if there else f"Give that one too: --perturb {other or 'diffeo'}."
        raise UsageError(f"{spec!r} matches {other!r}, which is no perturbation of this run. {given}")
    return [MatchedNoise(seed, match=one) for one in there[other]]


def _family(spec: str, seed: int) -> list[Perturbation]:
    """One specification's perturbations: one for every strength."""
    name, _, text = (part.strip() for part in spec.partition(":"))
    kinds = [kind for kind in Perturbation.kinds if kind.name == name and kind is not MatchedNoise]
    if not kinds:
        one_of("perturbation", name, sorted({kind.name for kind in Perturbation.kinds}))
    given = [part.partition("=")[0].strip() for part in text.split(",") if "=" in part]
    if len(kinds) > 1 and not given:
        raise UsageError(f"{spec!r} does not say which: match=diffeo, {' or '.join(f'{one.amount}=...' for one in kinds)}.")
    kind = next((one for one in kinds if set(given) <= {field.name for field in fields(one)}), kinds[0])
    parts = [f"{kind.amount}={part}" if "=" not in part else part for part in filter(None, text.split(","))]
    sweep, kept = None, []
    for part in parts:
        key, _, value = (side.strip() for side in part.partition("="))
        if key == kind.amount and ".." in value:
            sweep = _strengths(value, spec)
        else:
            kept.append(part)
    values: dict[str, Any] = options(",".join(kept), kind, f"perturbation {name}")
    one = kind(**({"seed": seed} | values))
    return [one] if sweep is None else [one.at(strength) for strength in sweep]


def _strengths(text: str, spec: str) -> list[float]:
    """The amounts of a range."""
    ends, slash, count = text.partition("/")
    low, _, high = ends.partition("..")
    try:
        first, last, steps = float(low), float(high), int(count) if slash else 0
    except (ValueError, OverflowError):
        first, last, steps = 0.0, -1.0, 0
    if max(steps, last - first) > _MOST_STRENGTHS:
        raise UsageError(f"{text!r} in {spec!r} has more than {_MOST_STRENGTHS} amounts; write 0.1..10/20 for 20 of them.")
    if slash and 0 < first < last and steps > 1:
        return [float(one) for one in np.geomspace(first, last, steps)]
    if slash or not first <= last < math.inf or first != int(first) or last != int(last):
        raise UsageError(f"{text!r} in {spec!r} is no range; write 1..8, or 0.1..10/20 for 20 amounts equal factors apart.")
    return [float(one) for one in range(int(first), int(last) + 1)]
