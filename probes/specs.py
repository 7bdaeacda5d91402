"""`NAME:ARGUMENT,key=value,...`: the syntax of specifications of pools, metrics, perturbations, models and data sets.

White space around names, keys and values is ignored. The argument is the text after the colon, up to the first comma, if it
is not `key=value`; it may contain colons, as in `py:module:function`. Repeated keys are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from probes.errors import UsageError

__all__ = ["Spec", "parse_options", "parse_spec", "parse_specs"]


@dataclass(frozen=True)
class Spec:
    """A parsed specification.

    Attributes
    ----------
    name : str
        Text before the colon.
    argument : str
        Text after the colon without a key; may be empty.
    options : mapping of str to str
        Keys and values, as text.
    """

    name: str
    argument: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


def parse_spec(text: str) -> Spec:
    """Parse a specification.

    Raises
    ------
    UsageError
        If a part is no `key=value`, or a key is given twice.

    Examples
    --------
    >>> parse_spec("shift:2, border=reflect")
    Spec(name='shift', argument='2', options={'border': 'reflect'})
    >>> parse_spec("py:mine:metric,k=3").argument
    'mine:metric'
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    first, _, others = (part.strip() for part in rest.partition(","))
    if "=" in first:
        return Spec(name, "", parse_options(rest, name))
    return Spec(name, first, parse_options(others, name))


def parse_specs(text: str) -> list[Spec]:
    """Parse a comma-separated list of specifications.

    Raises
    ------
    UsageError
        As for `parse_spec`.

    Examples
    --------
    >>> [(spec.name, spec.options) for spec in parse_specs("fisher_ratio,rate_reduction:eps_sq=0.1,normalization=sphere")]
    [('fisher_ratio', {}), ('rate_reduction', {'eps_sq': '0.1', 'normalization': 'sphere'})]
    """
    texts: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if texts and "=" in part and ":" not in part.partition("=")[0]:
            texts[-1] += f",{part}" if ":" in texts[-1] else f":{part}"
        else:
            texts.append(part)
    return [parse_spec(part) for part in texts]


def parse_options(text: str, what: str) -> dict[str, str]:
    """Parse `key=value,key=value`; `what` is the name of the specification in messages.

    Raises
    ------
    UsageError
        If a part is no `key=value`, or a key is given twice.

    Examples
    --------
    >>> parse_options("J=3, L=8", "scattering")
    {'J': '3', 'L': '8'}
    """
    options: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (side.strip() for side in part.partition("="))
        if not equals or not key or not value:
            raise UsageError(f"{part!r} in {what} is not a parameter; write key=value,key=value.")
        if key in options:
            raise UsageError(f"{key} of {what} is given twice.")
        options[key] = value
    return options
