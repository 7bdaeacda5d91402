"""The registry of metrics: a metric is a pure function `state -> float or {variant: float}` and what it `needs`.

A new metric is one new file in this folder whose function carries `@metric(needs=...)`; nothing else is edited. The
command line, `analyze`, the documentation and the conformance tests find it here. Metrics outside this package are registered
by an entry point of their package, `py:module:function`, a plugin file or a notebook cell (`repanalysis.plugins`).
"""

from __future__ import annotations

import inspect
import math
import pickle
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from importlib import import_module
from typing import Any, Literal, TypeVar, get_args

from probes.errors import UsageError
from probes.specs import parse_specs
from repanalysis._checks import one_of
from repanalysis.plugins import attribute_of, by_value, entry_points, origin_of
from repanalysis.specs import bind
from repanalysis.statistics import ClassMoments, Statistic

__all__ = ["INVARIANCES", "STRUCTURES", "Metric", "Structure", "Value", "get", "metric", "metric_of", "names", "parse"]

INVARIANCES = {
    "translation": "adding one vector to every sample",
    "rotation": "an orthogonal map of the features",
    "scaling": "multiplying every sample by one positive number",
    "linear": "any invertible linear map of the features",
    "sign": "flipping the sign of any sample",
}

Structure = Literal["up", "down", "either"]
STRUCTURES = {
    "up": "higher",
    "down": "lower",
    "either": "neither higher nor lower by itself, so a p is two-sided",
}

Function = TypeVar("Function", bound=Callable[..., Any])
_METRICS: dict[str, Metric] = {}  # by name, of all imported modules


class Value(float):
    """A number with a note (why it is NaN, which rank was used) and a standard error, NaN if unknown.

    Examples
    --------
    >>> value = Value("nan", "one class only")
    >>> value, value.note, value.se
    (nan, 'one class only', nan)
    """

    note: str
    se: float

    def __new__(cls, value: float | str, note: str = "", *, se: float = math.nan) -> Value:
        """A float that carries `note` and `se`."""
        number = super().__new__(cls, value)
        number.note, number.se = note, se
        return number


@dataclass(frozen=True)
class Metric:
    """A registered function with values of its parameters.

    Attributes
    ----------
    name : str
        Name in tables and on the command line.
    function : callable
        `function(state, **parameters) -> float or {variant: float}`.
    statistic : callable
        `statistic(**parameters)` is the Statistic whose state the function takes.
    min_classes : int
        0: labels are not used; 1: labels are needed; 2: at least two classes are needed.
    invariant : frozenset of str
        Transformations under which the value is constant; keys of `INVARIANCES`.
    structure : {"up", "down", "either"}, or mapping of variant to it
        Direction in which the value changes with more class structure; "either" for variants that are not in the mapping.
    steps : frozenset of str
        Discrete variants, such as counts, for which the jackknife gives no error.
    params : mapping
        Parameters that differ from the function's defaults.
    needs_targets : bool
        Whether it uses continuous targets instead of labels.
    by_class : bool
        Whether its value depends on the classes if there are any; true if `min_classes` is above 0.
    """

    name: str
    function: Callable[..., Any]
    statistic: Callable[..., Statistic]
    min_classes: int
    invariant: frozenset[str]
    structure: Structure | Mapping[str, Structure] = field(default="either", hash=False)
    steps: frozenset[str] = frozenset()
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    needs_targets: bool = False
    by_class: bool = False

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Every parameter with its value, defaults included."""
        signature = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY} | dict(self.params)

    @property
    def spec(self) -> str:
        """The text from which `parse` makes this metric."""
        return ":".join(filter(None, [self.name, ",".join(f"{key}={value}" for key, value in self.params.items())]))

    @cached_property
    def needs(self) -> Statistic:
        """The statistic whose state it takes."""
        return self.statistic(**self.parameters)

    @property
    def has_jackknife_se(self) -> bool:
        """Whether it is a function of moments, so that the jackknife gives its standard error."""
        return isinstance(self.needs, ClassMoments)

    def tail(self, variant: str = "") -> Structure:
        """Direction in which a variant, named as by `__call__`, changes with more class structure."""
        if isinstance(self.structure, str):
            return self.structure
        named = {self._variant_name(name): structure for name, structure in self.structure.items()}
        return named.get(variant, "either")

    def moves_in_steps(self, variant: str = "") -> bool:
        """Whether a variant, named as by `__call__`, is one of `steps`."""
        return any(variant == self._variant_name(name) for name in self.steps)

    @property
    def needs_head(self) -> bool:
        """Whether it needs the weights of the network's last linear layer, passed by `analyze(head=...)`, and has none yet."""
        return "head" in self.parameters and self.parameters["head"] is None

    @property
    def origin(self) -> str:
        """Origin of a function outside this package, with a hash of its source; empty for our own."""
        return origin_of(self.function)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name and parameters; functions outside this package, which other processes may lack, by value."""
        if not self.origin:
            return _reconstructed, (self.name, dict(self.params))
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _unpickled, (by_value(values, self.function),)

    @property
    def summary(self) -> str:
        """First line of the function's documentation."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def __call__(self, state: Any) -> dict[str, Value]:
        """The value of every variant; names of variants include `params`."""
        result = self.function(state, **self.params)
        values = result if isinstance(result, Mapping) else {"": result}
        return {
            self._variant_name(variant): value if isinstance(value, Value) else Value(value)
            for variant, value in values.items()
        }

    def _variant_name(self, variant: str) -> str:
        """A variant's name with `params`."""
        texts = {key: str(value).lower() if isinstance(value, bool) else value for key, value in self.params.items()}
        shown = [f"{key}={value}" for key, value in texts.items() if isinstance(value, str | int | float)]
        return ",".join(filter(None, [variant, *shown]))


def metric(
    needs: Statistic | Callable[..., Statistic],
    *,
    min_classes: int = 2,
    invariant: Iterable[str] = (),
    structure: Structure | Mapping[str, Structure] = "either",
    steps: Iterable[str] = (),
    targets: bool = False,
    by_class: bool = False,
) -> Callable[[Function], Function]:
    """Register the decorated function under its own name.

    Parameters
    ----------
    needs : Statistic, or callable of the function's parameters
        The statistic whose result is the function's first argument.
    min_classes : int, default 2
        0: labels are not used; 1: labels are needed; 2: at least two classes are needed.
    invariant : iterable of str
        Transformations under which the value is constant; the conformance tests check them.
    structure : {"up", "down", "either"}, or mapping of variant to it, default "either"
        Direction in which the value changes with more class structure: the tail of the permutation test of `analyze(null=...)`.
        "either" is two-sided, and holds for variants that are not in the mapping.
    steps : iterable of str, optional
        Discrete variants, such as counts. They have no jackknife error, since most replicates equal the full value.
    targets : bool, default False
        Whether it uses continuous targets instead of labels. `min_classes` is then 0, and a parameter `names`, if the function
        has one, receives the names of the targets.
    by_class : bool, default False
        Whether its value depends on the classes if there are any, although `min_classes` is 0.

    Raises
    ------
    UsageError
        If an invariance or a direction of structure is unknown, or one of our metrics has the function's name.
    """
    for transformation in invariant:
        one_of("invariance", transformation, INVARIANCES)
    for direction in structure.values() if isinstance(structure, Mapping) else [structure]:
        one_of("structure", direction, get_args(Structure))

    def register(function: Function) -> Function:
        statistic = needs if not isinstance(needs, Statistic) else lambda **_: needs
        name = function.__name__
        classes = 0 if targets else min_classes
        if name in _files() and function.__module__ != f"{__name__.rpartition('.')[0]}.{name}":
            raise UsageError(f"A metric {name} exists already; choose another name.")
        declared = Metric(name, function, statistic, classes, frozenset(invariant), structure, frozenset(steps))
        _METRICS[name] = replace(declared, needs_targets=targets, by_class=by_class or classes > 0)
        return function

    return register


@cache
def _files() -> list[str]:
    """Names of the modules of this folder that define a metric of the same name."""
    folder = import_module(__name__.rpartition(".")[0]).__path__
    return [module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_")]


def names() -> list[str]:
    """Names of all metrics, sorted: those of this folder, installed packages, plugins and notebooks.

    Examples
    --------
    >>> "fisher_ratio" in names()
    True
    """
    return sorted({*_files(), *_METRICS, *entry_points("metrics")})


def _registered(name: str) -> Metric:
    """The metric of a name; imports its module if necessary."""
    if name.startswith("py:"):
        return metric_of(attribute_of(name.removeprefix("py:")), name)
    one_of("metric", name, names())
    if name not in _METRICS and name in _files():
        import_module(f"{__name__.rpartition('.')[0]}.{name}")
    if name not in _METRICS:
        _METRICS[name] = metric_of(entry_points("metrics")[name].load(), name)
    return _METRICS[name]


def metric_of(function: Any, name: str = "") -> Metric:
    """The metric registered for a function; `name` is how the caller referred to it.

    Raises
    ------
    UsageError
        If the function is not registered.
    """
    for metric in _METRICS.values():
        if metric.function is function:
            return metric
    name = name or getattr(function, "__name__", repr(function))
    raise UsageError(f"{name!r} is not a metric: decorate the function with @metric(needs=...) of repanalysis.metrics.")


def get(name: str, **parameters: Any) -> Metric:
    """The metric called `name`, with values for parameters of its function.

    Parameters
    ----------
    name : str
        Such as `"rate_reduction"`.
    **parameters
        Such as `eps_sq=0.1`.

    Raises
    ------
    UsageError
        If the metric or parameter does not exist, or the value is not allowed.

    Examples
    --------
    >>> get("rate_reduction", eps_sq=0.1).params
    {'eps_sq': 0.1}
    """
    metric = _registered(name)
    return replace(metric, params=bind(parameters, metric.function, metric.name))


def parse(text: str) -> list[Metric]:
    """The metrics of a command-line list such as `fisher_ratio,rate_reduction:eps_sq=0.1,normalization=sphere`.

    Raises
    ------
    UsageError
        If a metric or a parameter is unknown.

    Examples
    --------
    >>> [(m.name, m.params) for m in parse("fisher_ratio,rate_reduction:eps_sq=0.1")]
    [('fisher_ratio', {}), ('rate_reduction', {'eps_sq': 0.1})]
    """
    metrics = []
    for spec in parse_specs(text):
        name = f"py:{spec.argument}" if spec.name == "py" else spec.name
        if spec.argument and spec.name != "py":
            raise UsageError(f"{spec.argument!r} in {text!r} is not a parameter; write name:key=value,key=value.")
        metrics.append(get(name, **spec.options))
    return metrics


def _unpickled(content: bytes) -> Metric:
    return Metric(**pickle.loads(content))


def _reconstructed(name: str, params: dict[str, Any]) -> Metric:
    return get(name, **params)
