"""`"diffeo:delta=1,c=3"` -> perturbations; a range of strengths makes a sweep of them.

NAME:key=value,...          diffeo:delta=1,c=3    shift:pixels=2,border=reflect    noise:sigma=0.1
NAME:STRENGTH               shift:2               rotation:10
py:MODULE:CLASS,key=value   py:blur:Blur,sigma=2  a class of your own
a..b                        shift:1..8            whole numbers from a to b
a..b/k                      diffeo:0.1..10/20     k strengths from a to b in geometric progression
noise:match=NAME            noise with the norm, image by image, of another perturbation of the list
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from probes.errors import UsageError
from probes.specs import Spec, parse_spec
from repanalysis._checks import one_of
from repanalysis.perturbations.base import Perturbation
from repanalysis.perturbations.noise import MatchedNoise
from repanalysis.plugins import attribute_of, entry_points
from repanalysis.specs import bind

__all__ = ["perturbations"]

_MAX_STRENGTHS = 1000


def perturbations(specs: str | Sequence[str], *, seed: int = 0) -> list[Perturbation]:
    """Perturbations of the specifications, in order; a sweep gives one per strength.

    Parameters
    ----------
    specs : str or sequence of str
        In the grammar above.
    seed : int, default 0
        Seed of all of them.

    Raises
    ------
    UsageError
        If a name or a parameter is unknown, two perturbations are equal, or the perturbation that noise matches is missing.

    Examples
    --------
    >>> [(each.label, each.strength) for each in perturbations(["shift:1..3", "noise:match=shift"])][2:5]
    [('shift', 3.0), ('noise:match=shift', 1.0), ('noise:match=shift', 2.0)]
    """
    specs = [specs] if isinstance(specs, str) else list(specs)
    if not specs:
        raise UsageError("Stability needs a perturbation: diffeo:delta=1,c=3, shift:1..8 or noise:sigma=0.1, for example.")
    parsed = [parse_spec(spec) for spec in specs]
    families: dict[str, list[Perturbation]] = {}
    plain = [None if _matched(spec) is not None else _family(spec, seed) for spec in parsed]
    for family in filter(None, plain):
        families.setdefault(family[0].name, []).extend(family)
    named = [_matching(spec, families, seed) if family is None else family for spec, family in zip(parsed, plain, strict=True)]
    listed = [perturbation for family in named for perturbation in family]
    if len(set(listed)) < len(listed):
        raise UsageError("Two of the perturbations are equal; give each once.")
    return listed


def _matched(spec: Spec) -> str | None:
    """Name of the perturbation that noise matches; None for other perturbations."""
    return spec.options.get("match") if spec.name == "noise" else None


def _matching(spec: Spec, families: dict[str, list[Perturbation]], seed: int) -> list[Perturbation]:
    """Noise that matches each perturbation of a family."""
    name = _matched(spec) or ""
    if others := ", ".join(key for key in spec.options if key != "match") or spec.argument:
        raise UsageError(f"noise:match={name} has no further parameters; it takes {others} from {name}.")
    if name not in families:
        advice = f"This run has {', '.join(families)}." if families else f"Add --perturb {name}."
        raise UsageError(f"'noise:match={name}' matches {name!r}, which is not a perturbation of this run. {advice}")
    return [MatchedNoise(seed, match=perturbation) for perturbation in families[name]]


def _family(spec: Spec, seed: int) -> list[Perturbation]:
    """The perturbations of a specification, one per strength."""
    kinds, argument = _kinds_of(spec)
    if len(kinds) > 1 and not spec.options:
        choices = " or ".join(f"{kind.strength_field}=..." for kind in kinds)
        raise UsageError(f"{spec.name!r} is ambiguous; add match=diffeo, {choices}.")
    kind = next((kind for kind in kinds if set(spec.options) <= {field.name for field in fields(kind)}), kinds[0])
    options = dict(spec.options)
    if argument:
        if kind.strength_field in options:
            raise UsageError(f"{kind.strength_field} of perturbation {spec.name} is given twice.")
        options[kind.strength_field] = argument
    sweep = _strengths(options.pop(kind.strength_field), spec.name) if ".." in options.get(kind.strength_field, "") else None
    perturbation = kind(**({"seed": seed} | bind(options, kind, f"perturbation {spec.name}")))
    return [perturbation] if sweep is None else [perturbation.with_strength(strength) for strength in sweep]


def _kinds_of(spec: Spec) -> tuple[list[type[Perturbation]], str]:
    """The classes that a specification may refer to, and its argument."""
    if spec.name == "py":
        kind = attribute_of(spec.argument)
        if not (isinstance(kind, type) and issubclass(kind, Perturbation)):
            raise UsageError(f"'py:{spec.argument}' is not a perturbation; it must be a subclass of Perturbation.")
        return [kind], ""
    installed = entry_points("perturbations")
    if spec.name in installed:
        return [installed[spec.name].load()], spec.argument
    kinds = [kind for kind in Perturbation.kinds if kind.name == spec.name and kind is not MatchedNoise]
    if not kinds:
        one_of("perturbation", spec.name, sorted({kind.name for kind in Perturbation.kinds} | set(installed)))
    return kinds, spec.argument


def _strengths(text: str, name: str) -> list[float]:
    """The strengths of a range."""
    ends, slash, count = text.partition("/")
    low, _, high = ends.partition("..")
    try:
        first, last, steps = float(low), float(high), int(count) if slash else 0
    except (ValueError, OverflowError):
        first, last, steps = 0.0, -1.0, 0
    if max(steps, last - first) > _MAX_STRENGTHS:
        raise UsageError(f"{text!r} of {name} has more than {_MAX_STRENGTHS} strengths; write 0.1..10/20 for 20 of them.")
    if slash and 0 < first < last and steps > 1:
        return [float(strength) for strength in np.geomspace(first, last, steps)]
    if slash or not first <= last < math.inf or first != int(first) or last != int(last):
        raise UsageError(
            f"{text!r} of {name} is not a range; write 1..8, or 0.1..10/20 for 20 strengths in geometric progression."
        )
    return [float(strength) for strength in range(int(first), int(last) + 1)]
